package store

import (
	"context"
	"errors"
	"slices"
	"time"
)

// A snapshot that broke off leaves states that no vector speaks for. Whoever
// gave them may be lost for good, and what they say outdone and reaped by then
// among members who did not know of this peer. So they go before another
// snapshot is begun: what a peer adopts, it has from one member.

// maxCleared records go in one commit.
const maxCleared = maxBatchWrites

var (
	// errNothingLeft ends clearing, errEnough one commit of it.
	errNothingLeft = errors.New("nothing is left to be cleared")
	errEnough      = errors.New("enough for one commit")
)

// StartOver removes what this peer was given while it joins. Its own writes
// stay. It does nothing once this peer has joined.
func (r *Replica) StartOver() error {
	return clearAll(func() error {
		_, err := r.single(&pending{kind: clearing})
		return err
	})
}

// StartOver removes what was given while joining; see Replica.StartOver.
func (db *DB) StartOver(ctx context.Context) error {
	return clearAll(func() error {
		_, err := db.submit(ctx, &pending{kind: clearing, done: make(chan outcome, 1)})
		return err
	})
}

func clearAll(some func() error) error {
	for {
		switch err := some(); {
		case errors.Is(err, errNothingLeft):
			return nil
		case err != nil:
			return err
		}
	}
}

func (r *Replica) decideClear(b *batch) error {
	if !r.Joining() || r.o.Faults.KeepGiven {
		return errNothingLeft
	}
	r.dropHeld()
	own, bytes := r.loggedKeys(), 0
	var given []Entry
	err := r.scanStates(func(s Stored) error {
		if _, writing := b.newest[s.Key]; writing || own[s.Key] {
			return nil
		}
		e, err := s.entry()
		if err != nil {
			return err
		}
		e.Value = slices.Clone(e.Value)
		bytes += len(e.Value)
		if given = append(given, e); len(given) == maxCleared || bytes > maxBatchBytes {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if len(given) == 0 {
		return errNothingLeft
	}
	for i := range given {
		before := &given[i]
		b.note(change{
			kind: clearing, before: before, erase: true,
			after: Entry{Key: before.Key, Version: r.tick(), Record: Record{UID: before.UID}},
		})
	}
	return nil
}

// dropHeld forgets what is held back: it came with what is cleared.
func (r *Replica) dropHeld() {
	r.held, r.bareUntil = nil, time.Time{}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heldCount = 0
}

// loggedKeys are those under which dots are logged: while a peer joins, its own.
func (r *Replica) loggedKeys() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := make(map[string]bool)
	for _, list := range r.log.actors {
		for _, s := range list {
			keys[s.key] = true
		}
	}
	return keys
}
