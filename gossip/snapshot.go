package gossip

import (
	"encoding/binary"
	"fmt"
	"time"

	"shoal/gossip/plumtree"
)

// taking is a snapshot that comes from a peer.
type taking struct {
	id               uint64
	peer             plumtree.Peer
	last             time.Duration
	merging          int
	failed, adopting bool
	// parts that came: a link that overflows may lose some.
	parts map[uint64]bool
	end   *snapshotEnd
}

// knowsNothing: no dots but our own, as in a peer that only just came.
func (c *Core) knowsNothing() bool {
	v := c.o.Store.Vector()
	_, own := v[c.o.Store.Actor()]
	return len(v) == 0 || len(v) == 1 && own
}

// join asks for a snapshot, from one peer at a time.
func (c *Core) join(l *link, theirs holding, now time.Duration) {
	if c.snapshot != nil || now < c.nextSnapshot || len(theirs.Vector) == 0 {
		return
	}
	if c.failed != nil && c.failed.merging > 0 {
		return // its last parts are to be gone with the others
	}
	s := &taking{id: c.o.Random.Uint64(), peer: l.peer, last: now, parts: make(map[uint64]bool)}
	c.snapshot, c.failed = s, nil
	c.counts.Snapshots++
	c.work(Work{kind: startOverWork}, func(r Result, now time.Duration) {
		switch {
		case c.snapshot != s:
		case r.err != nil:
			c.failSnapshot(now)
		default:
			s.last = now
			c.send(s.peer, kindSnapshotAsk, binary.BigEndian.AppendUint64(nil, s.id), false)
		}
	})
}

// mayGive: who joins itself has nothing to give; and to a peer that is not known
// as a member no snapshot is given yet, as nobody waits with reaping what the
// snapshot may still have.
func (c *Core) mayGive(l *link) bool {
	if a, ok := c.o.Store.(Admission); ok {
		return !a.Joining() && a.IsMember(l.progress.Actor)
	}
	return !c.joining || !c.knowsNothing() || len(c.o.Store.Vector()) > 0
}

func (c *Core) heardSnapshotAsk(l *link, id uint64) error {
	if l.gave == id {
		return nil // come twice: parts of one and the end of another are no snapshot
	}
	if c.giving >= maxSnapshots || !c.mayGive(l) {
		if l.refusals++; l.refusals > maxRefusals {
			return fmt.Errorf("asks for snapshots without end: %w", ErrCorrupt)
		}
		c.send(l.peer, kindSnapshotEnd, appendSnapshotEnd(nil, snapshotEnd{ID: id, Failed: true}), false)
		return nil
	}
	if err := c.answer(l, Work{kind: snapshotWork, id: id}, func(Result) {}); err != nil {
		return err
	}
	l.gave = id
	c.giving++
	token := c.token
	then := c.works[token]
	c.works[token] = func(r Result, now time.Duration) {
		c.giving--
		c.counts.SnapshotsGiven++
		then(r, now)
	}
	return nil
}

func (c *Core) heardChunk(l *link, p chunk, bytes int, now time.Duration) error {
	s := c.snapshot
	if s == nil || s.peer != l.peer || s.id != p.ID || s.parts[p.Part] {
		return c.unasked(l, bytes)
	}
	if err := c.admitBytes(l, bytes); err != nil {
		return err
	}
	if len(s.parts) >= maxParts {
		return fmt.Errorf("sends a snapshot of more than %d parts", maxParts)
	}
	s.last = now
	s.parts[p.Part] = true
	s.merging++
	c.merge(l, p.Deltas, bytes, func(err error, now time.Duration) {
		s.merging--
		s.last = now
		s.failed = s.failed || err != nil
		c.finishSnapshot(s, now)
	})
	return nil
}

func (c *Core) heardSnapshotEnd(l *link, e snapshotEnd, now time.Duration) {
	s := c.snapshot
	if s == nil || s.peer != l.peer || s.id != e.ID || s.end != nil {
		return
	}
	if e.Failed {
		c.failSnapshot(now)
		return
	}
	s.last, s.end = now, &e
	c.finishSnapshot(s, now)
}

// finishSnapshot claims what it covers once all of it is merged.
func (c *Core) finishSnapshot(s *taking, now time.Duration) {
	if c.snapshot != s || s.end == nil || s.merging > 0 || s.adopting || uint64(len(s.parts)) < s.end.Parts {
		return
	}
	if s.failed {
		c.failSnapshot(now)
		return
	}
	// Now it can be done without the peer; begun anew it would be claimed for
	// what comes then.
	s.adopting = true
	c.adopt(s.end.Vector, s.end.Floor, func(err error, now time.Duration) {
		if c.snapshot != s {
			return
		}
		if err != nil {
			c.failSnapshot(now)
			return
		}
		c.snapshot, c.joining = nil, false
		if l := c.link(s.peer); l != nil {
			c.compare(l, true, now)
		}
	})
}

// failSnapshot leaves it to another peer. The link is closed where the rest of
// it may still come.
func (c *Core) failSnapshot(now time.Duration) {
	s := c.snapshot
	c.snapshot, c.failed = nil, s
	c.counts.SnapshotsFailed++
	c.nextSnapshot = now + c.o.Timing.Retry/4
	c.nextExchange = min(c.nextExchange, c.nextSnapshot)
	if l := c.link(s.peer); l != nil && s.end == nil && now >= s.last+c.o.Timing.Session {
		c.close(l, "its snapshot does not come to an end", now)
	}
}
