package gossip

import (
	"fmt"
	"time"

	"shoal/gossip/plumtree"
	"shoal/store"
	"shoal/store/vector"
)

// Receive takes a frame in. One from a peer without a link is ignored; one that
// is not a message costs its sender the link.
func (c *Core) Receive(from plumtree.Peer, f Frame, now time.Duration) {
	l := c.link(from)
	if l == nil {
		return
	}
	l.used = now
	if err := c.receive(l, f, now); err != nil {
		c.cut(l, err.Error(), now)
	}
}

func (c *Core) receive(l *link, f Frame, now time.Duration) error {
	switch f.Kind {
	case kindTree:
		return c.heardTree(l, f.Payload, now)
	case kindCompare:
		return with(decodeSummary, f, func(s summary) error { c.heardCompare(l, s, now); return nil })
	case kindSame:
		return with(decodeSummary, f, func(s summary) error { c.heardSame(l, s, now); return nil })
	case kindVector:
		return with(decodeHolding, f, func(h holding) error { c.heardVector(l, h, now); return nil })
	case kindWant:
		return with(decodeWant, f, func(v vector.Vector) error { return c.heardWant(l, v) })
	case kindDeltas:
		return with(decodeAnswer, f, func(a answer) error { return c.heardDeltas(l, a, len(f.Payload), now) })
	case kindSetOpen, kindSetStep:
		return with(decodeSetStep, f, func(s setStep) error { return c.heardSet(l, s, f.Kind == kindSetOpen, now) })
	case kindSetEnd:
		return with(decodeSetEnd, f, func(e setEnd) error { c.heardSetEnd(l, e, now); return nil })
	case kindStatesAsk:
		return with(decodeStatesAsk, f, func(a statesAsk) error { return c.heardStatesAsk(l, a, now) })
	case kindStates:
		return with(decodeStates, f, func(s states) error { return c.heardStates(l, s, len(f.Payload), now) })
	case kindSnapshotAsk:
		return with(decodeSnapshotAsk, f, func(id uint64) error { return c.heardSnapshotAsk(l, id) })
	case kindSnapshot:
		return with(decodeChunk, f, func(p chunk) error { return c.heardChunk(l, p, len(f.Payload), now) })
	case kindSnapshotEnd:
		return with(decodeSnapshotEnd, f, func(e snapshotEnd) error { c.heardSnapshotEnd(l, e, now); return nil })
	}
	return fmt.Errorf("frame of unknown kind %d: %w", f.Kind, ErrCorrupt)
}

func with[T any](decode func([]byte) (T, error), f Frame, do func(T) error) error {
	v, err := decode(f.Payload)
	if err != nil {
		return err
	}
	return do(v)
}

// heardTree looks into a payload before the tree passes it on, so that each
// peer refuses garbage from the one that sent it.
func (c *Core) heardTree(l *link, data []byte, now time.Duration) error {
	m, err := plumtree.Decode(data)
	if err != nil {
		return err
	}
	if !l.inTree {
		// The other end sees more members than we do.
		l.inTree = true
		c.tree.Connect(l.peer)
	}
	switch m.Type {
	case plumtree.Push:
		if err := c.checkPush(l, m, now); err != nil {
			return err
		}
	case plumtree.Announce:
		held := c.o.Store.Vector()
		for _, item := range m.Items {
			if held.Has(vector.Actor(item.ID.Actor), item.ID.Sequence) {
				c.tree.Observe(item.ID)
			}
		}
	}
	c.tree.Step(l.peer, m, now)
	c.flushTree()
	return nil
}

func (c *Core) checkPush(l *link, m plumtree.Message, now time.Duration) error {
	id := m.Items[0].ID
	cost := relayCost
	if id.Actor == uint64(l.progress.Actor) {
		cost = 1
	}
	if err := c.admitBytes(l, len(m.Payload)); err != nil {
		return err
	}
	if !l.pushes.take(cost, now) {
		return fmt.Errorf("pushes records faster than %d a second", pushRate)
	}
	delta, err := decodeDelta(m.Payload)
	if err != nil {
		return err
	}
	if idOf(delta.Dot) != id || len(delta.Also) > 0 {
		return fmt.Errorf("a record under another's dot: %w", ErrCorrupt)
	}
	return nil
}

func (c *Core) flushTree() {
	out := c.tree.Take()
	for _, e := range out.Send {
		c.send(e.To, kindTree, plumtree.Append(nil, e.Message), false)
	}
	for _, d := range out.Deliver {
		delta, err := decodeDelta(d.Payload)
		if err != nil {
			continue // checked before it got here
		}
		c.merge(c.link(d.From), []store.Delta{delta}, len(d.Payload), nil)
	}
}

// merge hands deltas to the store. then, if set, is called at the end.
func (c *Core) merge(l *link, deltas []store.Delta, bytes int, then func(error, time.Duration)) {
	c.token++
	m := &merging{bytes: bytes, then: then}
	if l != nil {
		m.from = l.peer
		l.pending += bytes
	}
	for i := range deltas {
		m.dots = append(m.dots, deltas[i].Dots()...)
	}
	c.merges[c.token] = m
	c.out.Merge = append(c.out.Merge, Merge{Token: c.token, From: m.from, Bytes: bytes, Deltas: deltas})
}

// Merged takes in how a Merge ended.
func (c *Core) Merged(token uint64, err error, now time.Duration) {
	m := c.merges[token]
	if m == nil {
		return
	}
	delete(c.merges, token)
	l := c.link(m.from)
	if l != nil {
		l.pending = max(0, l.pending-m.bytes)
	}
	if err != nil {
		c.counts.MergesFailed++
	} else {
		c.noteHeldBack(m.dots, now)
	}
	if m.then != nil {
		m.then(err, now)
	}
	if l != nil {
		c.pump(l, now)
	}
}

// noteHeldBack remembers what the store took and does not claim, as stamps from
// the future, so that it is not asked for at once again.
func (c *Core) noteHeldBack(dots []store.Dot, now time.Duration) {
	held := c.o.Store.Vector()
	for _, d := range dots {
		if held.Has(d.Actor, d.Sequence) {
			continue
		}
		if len(c.heldBack) == 0 {
			c.retryHeld = now + c.o.Timing.HeldBack
		}
		if _, err := c.heldBack.Add(d.Actor, d.Sequence); err != nil {
			return // it is asked for again, no more
		}
	}
}

// admitBytes is the hard bound on what waits for the store.
func (c *Core) admitBytes(l *link, bytes int) error {
	if l.pending+bytes > overBytes {
		return fmt.Errorf("sent %d bytes that could not be merged yet, limit %d", l.pending+bytes, overBytes)
	}
	return nil
}

// unasked lets pass what answers no question any more, within bounds.
func (c *Core) unasked(l *link, bytes int) error {
	if l.unasked += bytes; l.unasked > overBytes {
		return fmt.Errorf("sent %d bytes that nobody asked for, limit %d", l.unasked, overBytes)
	}
	return nil
}

// bucket bounds how often something happens.
type bucket struct {
	rate, burst, tokens float64
	at                  time.Duration
}

func (b *bucket) take(n float64, now time.Duration) bool {
	if now > b.at {
		b.tokens = min(b.burst, b.tokens+(now-b.at).Seconds()*b.rate)
		b.at = now
	}
	if b.tokens < n {
		return false
	}
	b.tokens -= n
	return true
}
