package sim

import (
	"errors"
	"time"

	"shoal/store"
	"shoal/store/vector"
)

// puller is the plainest protocol there could be: writes go to all at once,
// and every now and then a peer tells a random other what it holds, who sends
// what is missing, or all it has where the log does not reach back so far.
type puller struct {
	p     *peer
	alive []*peer
}

const (
	pullEvery = 400 * time.Millisecond
	pullBytes = 1 << 14
)

// holds is what a peer has; answer: send yours, too.
type holds struct {
	actor  vector.Actor
	vector vector.Vector
	floor  uint64
	answer bool
	// joining: it needs all there is.
	joining bool
}

// brings has deltas in their wire form; of a snapshot all, and what they cover.
type brings struct {
	deltas   [][]byte
	snapshot bool
	holds    holds
}

func newPuller(p *peer) *puller {
	u := &puller{p: p}
	p.later(0, u.pull)
	return u
}

func (u *puller) stop()                 {}
func (u *puller) linkLost(*peer)        {}
func (u *puller) members(alive []*peer) { u.alive = alive }
func (u *puller) holds(answer bool) holds {
	r := u.p.replica
	return holds{r.Actor(), r.Vector(), r.Floor(), answer, r.Joining()}
}

func (u *puller) published(d store.Delta) {
	b := brings{deltas: [][]byte{store.AppendDelta(nil, &d)}}
	for _, q := range u.alive {
		if q != u.p {
			u.p.r.net.send(u.p, q, b)
		}
	}
}

func (u *puller) pull() {
	if n := len(u.alive); n > 1 {
		if q := u.alive[u.p.random.IntN(n)]; q != u.p {
			u.p.r.net.send(u.p, q, u.holds(true))
		}
	}
	u.p.later(pullEvery/2+time.Duration(u.p.random.Int64N(int64(pullEvery))), u.pull)
}

func (u *puller) receive(from *peer, message any) {
	switch m := message.(type) {
	case holds:
		u.heard(from, m)
	case brings:
		u.take(m)
	}
}

func (u *puller) heard(from *peer, m holds) {
	r := u.p.replica
	u.p.report(m.actor, m.vector)
	if m.floor > r.Floor() {
		u.p.tolerate(r.Adopt(vector.Vector{}, m.floor))
	}
	if m.answer {
		u.p.r.net.send(u.p, from, u.holds(false))
	}
	missing := m.vector.Missing(r.Vector())
	if len(missing) == 0 && !m.joining {
		return
	}
	deltas, _, err := r.Deltas(missing, pullBytes)
	b := brings{}
	switch {
	case m.joining && (!r.IsMember(m.actor) || r.Joining()) && !u.p.r.o.Reckless:
		return // its own record comes first
	case errors.Is(err, store.ErrGone) || m.joining:
		u.p.r.result.Snapshots++
		b.snapshot, b.holds = true, u.holds(false)
		b.holds.vector, b.holds.floor, err = r.Snapshot(func(d store.Delta) error {
			b.deltas = append(b.deltas, store.AppendDelta(nil, &d))
			return nil
		})
		if err != nil {
			u.p.tolerate(err)
			return
		}
	case err != nil:
		u.p.tolerate(err)
		return
	default:
		for i := range deltas {
			b.deltas = append(b.deltas, store.AppendDelta(nil, &deltas[i]))
		}
	}
	u.p.r.net.send(u.p, from, b)
}

func (u *puller) take(m brings) {
	var deltas []store.Delta
	for _, wire := range m.deltas {
		d, err := store.DecodeDelta(wire)
		if err != nil {
			u.p.r.check.fail("", "%s is sent by a peer what cannot be read: %v", u.p.name, err)
			return
		}
		deltas = append(deltas, d)
	}
	if m.snapshot {
		if err := u.p.replica.StartOver(); err != nil {
			u.p.tolerate(err)
			return
		}
	}
	if err := u.p.replica.Merge(deltas); err != nil {
		u.p.tolerate(err)
		return
	}
	if m.snapshot {
		u.p.tolerate(u.p.replica.Adopt(m.holds.vector, m.holds.floor))
	}
}
