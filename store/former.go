package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// A peer that becomes a new actor, because its disk lost writes or because its
// restarts have left too many gaps, is for a time a member under both names.
// To itself both are itself. The others wait for the old one, which says nothing
// any more, until its member record is deleted; whoever does that waits for the
// new one's to be stable, as in between this peer would count nowhere.

const (
	// defaultOwnSpans is a quarter of what a vector may have of one actor. Each
	// restart that is written after leaves a gap, and no host restarts so often
	// but in a crash loop.
	defaultOwnSpans = 1000
	// maxFormer are remembered; those before have long been retired.
	maxFormer = 16

	keyFormer = "\x00former"
)

// Former returns the actors that this peer was, oldest first.
func (r *Replica) Former() []Actor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.former)
}

// Former returns the actors that this peer was; see Replica.Former.
func (db *DB) Former() []Actor { return db.replica.Former() }

// own: that actor is or was this peer. mu is held.
func (r *Replica) own(a Actor) bool { return a == r.actor || slices.Contains(r.former, a) }

func (r *Replica) formerWith(a Actor) []Actor {
	all := append(slices.Clone(r.former), a)
	return all[max(0, len(all)-maxFormer):]
}

func (r *Replica) loadFormer() ([]Actor, error) {
	found, err := r.disk.Get(keyFormer)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read former actors: %w", err)
	}
	var former []Actor
	for b := found.Value; len(b) >= 8; b = b[8:] {
		former = append(former, Actor(binary.BigEndian.Uint64(b)))
	}
	return former, nil
}

func formerWrite(former []Actor, v Version) Write {
	var b []byte
	for _, a := range former {
		b = binary.BigEndian.AppendUint64(b, uint64(a))
	}
	return Write{Key: keyFormer, Version: v, Value: b}
}

// renew draws a new actor if the present one has too many gaps. Its dots stay
// known and are given to others like those of anybody.
func (r *Replica) renew() error {
	if !r.found || r.joining || len(r.vector[r.actor]) < r.o.OwnSpans {
		return nil
	}
	id, err := r.drawActor()
	if err != nil {
		return err
	}
	former := r.formerWith(r.actor)
	r.tick()
	if err := r.disk.Commit([]Write{formerWrite(former, r.last), actorWrite(id, r.last)}); err != nil {
		return fmt.Errorf("write a new actor: %w", err)
	}
	r.former, r.actor, r.sequence = former, id, 0
	return nil
}
