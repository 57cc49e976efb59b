package gossip

import (
	"context"

	"shoal/store"
	"shoal/store/vector"
)

// Admission is what a Store may say of joining besides; *store.DB does.
type Admission interface {
	// Joining: nothing was adopted of what a member has.
	Joining() bool
	// IsMember: that actor is known here as a member.
	IsMember(a vector.Actor) bool
	// StartOver removes what was given while joining, before another snapshot.
	StartOver(ctx context.Context) error
}

// Store is the replica that is kept equal to the other peers'. It has more
// methods than an interface should: it is the whole of what peers exchange, and
// the simulator and the database must both be all of it. Core calls those
// without a context itself, except Deltas and States, which like the rest are
// called by Work.
type Store interface {
	Actor() vector.Actor
	// Vector is durable and is not changed by anybody once returned.
	Vector() vector.Vector
	// VectorDigest is equal for equal vectors alone.
	VectorDigest() uint64
	Floor() uint64
	Fingerprints() store.Fingerprints
	// Report takes in what another actor says it holds.
	Report(peer vector.Actor, v vector.Vector)

	// Merge is durable when it returns, and idempotent.
	Merge(ctx context.Context, deltas []store.Delta) error
	// Deltas answers a part of want that takes up to maxBytes; covered says
	// which part. The error wraps store.ErrGone where some of it is no longer
	// logged; what is still comes with it.
	Deltas(want vector.Vector, maxBytes int) (deltas []store.Delta, covered vector.Vector, err error)
	// Digests names all replicated keys and a vector that these states cover.
	Digests(ctx context.Context) ([]store.KeyDigest, vector.Vector, uint64, error)
	// States returns the current states of those keys that exist.
	States(keys []string) ([]store.Delta, error)
	Snapshot(ctx context.Context, yield func(store.Delta) error) (vector.Vector, uint64, error)
	// Adopt claims v's dots, all of which were merged before, and raises the
	// floor.
	Adopt(ctx context.Context, v vector.Vector, floor uint64) error
}
