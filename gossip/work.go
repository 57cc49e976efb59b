package gossip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"shoal/gossip/plumtree"
	"shoal/gossip/reconcile"
	"shoal/store"
	"shoal/store/vector"
)

// snapshotBytes is a part of a snapshot.
const snapshotBytes = 256 << 10

// statesBatch are read from the store at a time.
const statesBatch = 64

type workKind uint8

const (
	deltasWork workKind = iota + 1
	statesWork
	digestsWork
	snapshotWork
	adoptWork
	startOverWork
)

// Work is what the store has to do that may take long. Different Work may be
// done at the same time and in any order; each must be done and its end told to
// Finish.
type Work struct {
	Token uint64
	// To is the peer that it is done for, if any; its link may go meanwhile.
	To     plumtree.Peer
	kind   workKind
	vector vector.Vector
	floor  uint64
	id     uint64
	round  uint64
	keys   []string
}

// Result is the end of Work.
type Result struct {
	err     error
	payload []byte
	set     *reconcile.Set
	vector  vector.Vector
	floor   uint64
}

func (c *Core) work(w Work, then func(Result, time.Duration)) {
	c.token++
	w.Token = c.token
	c.works[w.Token] = then
	c.out.Work = append(c.out.Work, w)
}

// Finish takes in what Do returned.
func (c *Core) Finish(token uint64, r Result, now time.Duration) {
	then, known := c.works[token]
	delete(c.works, token)
	if known && then != nil {
		then(r, now)
	}
}

// Snapshot reports whether Do sends frames, for which it needs send.
func (w Work) Snapshot() bool { return w.kind == snapshotWork }

// Do works. It may be called from any goroutine. send gives a frame to w.To
// when there is room.
func (w Work) Do(ctx context.Context, s Store, send func(Frame) error) Result {
	switch w.kind {
	case deltasWork:
		return w.deltas(s)
	case statesWork:
		return w.states(s)
	case digestsWork:
		return digests(ctx, s)
	case snapshotWork:
		return Result{err: w.snapshot(ctx, s, send)}
	case adoptWork:
		return Result{err: s.Adopt(ctx, w.vector, w.floor)}
	case startOverWork:
		if a, ok := s.(Admission); ok {
			return Result{err: a.StartOver(ctx)}
		}
		return Result{}
	}
	return Result{err: fmt.Errorf("do work of kind %d: not known", w.kind)}
}

func (w Work) deltas(s Store) Result {
	deltas, covered, err := s.Deltas(w.vector, answerBytes)
	gone := errors.Is(err, store.ErrGone)
	if err != nil && !gone {
		return Result{err: err}
	}
	return Result{payload: appendAnswer(nil, answer{Covered: covered, Deltas: deltas, Gone: gone})}
}

func (w Work) states(s Store) Result {
	out := states{ID: w.id, Round: w.round}
	bytes := 0
	for out.Answered < len(w.keys) {
		batch := w.keys[out.Answered:min(len(w.keys), out.Answered+statesBatch)]
		found, err := s.States(batch)
		if err != nil {
			return Result{err: err}
		}
		byKey := make(map[string]*store.Delta, len(found))
		for i := range found {
			byKey[found[i].Key] = &found[i]
		}
		for _, k := range batch {
			if d := byKey[k]; d != nil {
				if n := size(d); bytes > 0 && bytes+n > answerBytes {
					return Result{payload: appendStates(nil, out)}
				}
				bytes += size(d)
				out.Deltas = append(out.Deltas, *d)
			}
			out.Answered++
		}
	}
	return Result{payload: appendStates(nil, out)}
}

// size is about what a delta takes on the wire.
func size(d *store.Delta) int {
	const fixed = 64
	n := fixed + len(d.Key) + len(d.Record.Value)
	for i := range d.Record.Stamps {
		n += fixed/2 + len(d.Record.Stamps[i].Fields)
	}
	return n
}

func digests(ctx context.Context, s Store) Result {
	keys, v, floor, err := s.Digests(ctx)
	if err != nil {
		return Result{err: err}
	}
	entries := make([]reconcile.Entry, len(keys))
	for i, k := range keys {
		entries[i] = reconcile.Entry{Key: k.Key, Version: uint64(k.Digest)}
	}
	return Result{set: reconcile.NewSet(entries), vector: v, floor: floor}
}

// snapshot sends every record, then what they cover; of a failure it tells too.
func (w Work) snapshot(ctx context.Context, s Store, send func(Frame) error) error {
	const header = 16
	parts, buf := uint64(0), make([]byte, header, snapshotBytes)
	flush := func() error {
		binary.BigEndian.PutUint64(buf, w.id)
		binary.BigEndian.PutUint64(buf[8:], parts)
		parts++
		err := send(Frame{Kind: kindSnapshot, Payload: buf})
		buf = make([]byte, header, snapshotBytes)
		return err
	}
	v, floor, err := s.Snapshot(ctx, func(d store.Delta) error {
		if len(buf)+size(&d) > snapshotBytes && len(buf) > header {
			if err := flush(); err != nil {
				return err
			}
		}
		buf = appendDeltas(buf, []store.Delta{d})
		return nil
	})
	if err == nil && len(buf) > header {
		err = flush()
	}
	if v == nil {
		v = vector.Vector{}
	}
	end := snapshotEnd{ID: w.id, Failed: err != nil, Parts: parts, Floor: floor, Vector: v}
	return errors.Join(err, send(Frame{Kind: kindSnapshotEnd, Payload: appendSnapshotEnd(nil, end)}))
}
