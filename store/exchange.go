package store

import (
	"context"
	"errors"
	"time"

	"shoal/store/vector"
)

// The part of a DB that other peers' gossip is for.

const (
	// mergeDeltas and mergeBytes bound one commit of a merge.
	mergeDeltas = 512
	mergeBytes  = maxBatchBytes
	// releaseEvery is how often deltas from the future are looked at.
	releaseEvery = time.Second
)

// Actor returns the name of this peer's incarnation.
func (db *DB) Actor() Actor { return db.replica.Actor() }

// Vector returns the dots held, all of them durable. Nobody may change it.
func (db *DB) Vector() vector.Vector { return db.replica.Vector() }

// Joining reports that nothing was adopted yet; see Replica.Joining.
func (db *DB) Joining() bool { return db.replica.Joining() }

// IsMember reports whether that actor is known as a member.
func (db *DB) IsMember(a Actor) bool { return db.replica.IsMember(a) }

// VectorAt is Vector, and the version at which reads see all that it covers:
// for a moment after a commit that version is still to come.
func (db *DB) VectorAt() (vector.Vector, Version) { return db.replica.vectorAt() }

// VectorDigest is equal for equal vectors.
func (db *DB) VectorDigest() uint64 { return db.replica.VectorDigest() }

// Floor returns the causal length below which nothing is created any more.
func (db *DB) Floor() uint64 { return db.replica.Floor() }

// Fingerprints returns those of what is held.
func (db *DB) Fingerprints() Fingerprints { return db.replica.Fingerprints() }

// Deltas returns states by dots; see Replica.Deltas.
func (db *DB) Deltas(want vector.Vector, maxBytes int) ([]Delta, vector.Vector, error) {
	return db.replica.Deltas(want, maxBytes)
}

// States returns states by keys; see Replica.States.
func (db *DB) States(keys []string) ([]Delta, error) { return db.replica.States(keys) }

// Digests returns the digests of all; see Replica.Digests. It takes about a
// microsecond for each record.
func (db *DB) Digests(ctx context.Context) ([]KeyDigest, vector.Vector, uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, 0, err
	}
	return db.replica.Digests()
}

// Snapshot yields every state; see Replica.Snapshot.
func (db *DB) Snapshot(ctx context.Context, yield func(Delta) error) (vector.Vector, uint64, error) {
	return db.replica.Snapshot(func(d Delta) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return yield(d)
	})
}

// Merge takes in what other peers wrote. It returns after the sync, and may
// have taken in a part when it fails; all of it can be done again. Deltas from
// the future are held back and not noted as held.
func (db *DB) Merge(ctx context.Context, deltas []Delta) error {
	var full error
	for len(deltas) > 0 {
		n, bytes := 0, 0
		for n < len(deltas) && n < mergeDeltas && (n == 0 || bytes < mergeBytes) {
			bytes += len(deltas[n].Record.Value)
			n++
		}
		_, err := db.submit(ctx, &pending{kind: merging, deltas: deltas[:n:n], done: make(chan outcome, 1)})
		if noSpace := (*NoSpaceError)(nil); errors.As(err, &noSpace) {
			full = err // what frees space may come behind
		} else if err != nil {
			return err
		}
		deltas = deltas[n:]
	}
	return full
}

// Adopt notes all dots of v as held. The states that cover them must have been
// merged before. ErrHeldBack if some of these are from the future.
func (db *DB) Adopt(ctx context.Context, v vector.Vector, floor uint64) error {
	_, err := db.submit(ctx, &pending{kind: adopting, adopt: &checkpoint{vector: v, floor: floor}, done: make(chan outcome, 1)})
	return err
}

// Report takes in what a member says it holds.
func (db *DB) Report(from Actor, v vector.Vector) {
	if !db.replica.Report(from, v) {
		return
	}
	select {
	case db.lost <- from:
	default:
	}
}

// releaseLoop merges deltas held back once their time has come, and makes this
// peer a new actor when its disk was found to have lost writes.
func (db *DB) releaseLoop() {
	for {
		select {
		case <-db.opts.Clock.After(releaseEvery):
			if db.replica.HeldBack() > 0 {
				db.note("merge what was held back", &pending{kind: releasing})
			}
		case from := <-db.lost:
			actor := db.Actor()
			db.log.Error("this disk has lost writes that were answered; going on as a new actor", "actor", actor, "heardFrom", from)
			db.note("become a new actor", &pending{kind: reincarnating, actor: actor})
		case <-db.closing:
			return
		}
	}
}

// note submits a change of the account.
func (db *DB) note(what string, p *pending) {
	p.done = make(chan outcome, 1)
	if _, err := db.submit(context.Background(), p); err != nil && !errors.Is(err, ErrClosed) {
		db.log.Warn(what, "error", err)
	}
}
