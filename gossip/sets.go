package gossip

import (
	"fmt"
	"time"

	"shoal/gossip/plumtree"
	"shoal/gossip/reconcile"
	"shoal/store/vector"
)

// session is one reconciliation of sets with one peer. Both sides learn where
// they differ; each then asks for the other's states of these keys, merges them
// and claims the vector that the other's states covered.
type session struct {
	id   uint64
	peer plumtree.Peer
	// begun here, else by the peer.
	begun bool
	// divergence: it repairs what should not be.
	divergence bool
	// last is when something came.
	last time.Duration

	set     *reconcile.Session
	vector  vector.Vector // theirs
	floor   uint64
	replica bool   // vector and floor came
	number  uint64 // of the message that comes next
	// cut: one side left out some of what differs.
	cut      bool
	compared bool

	keys    []string // to ask for
	asked   int      // of these, in the question that is open
	round   uint64   // of that question
	merging int
	failed  bool
	// ours and theirs: each side's part is done.
	adopting, ours, theirs bool
}

// openSession reconciles with a peer, unless one is under way.
func (c *Core) openSession(l *link, divergence bool, now time.Duration) {
	if c.joining || c.fetched != nil || c.served != nil && c.served.peer == l.peer || now < c.nextSets {
		return
	}
	s := &session{id: c.o.Random.Uint64(), peer: l.peer, begun: true, divergence: divergence, last: now}
	c.fetched = s
	c.counts.Sets++
	c.digest(s, func(r Result) {
		s.set, s.number = reconcile.NewSession(r.set), 1
		c.sendStep(s, kindSetOpen, setStep{ID: s.id, Replica: true, Diverged: divergence, Vector: r.vector, Floor: r.floor, Message: s.set.Start()})
	})
}

// digest reads what is here; then is called if the session is still open.
func (c *Core) digest(s *session, then func(Result)) {
	c.work(Work{kind: digestsWork}, func(r Result, now time.Duration) {
		switch {
		case c.fetched != s && c.served != s:
		case r.err != nil:
			c.endSession(s, true, now)
		default:
			s.last = now
			then(r)
		}
	})
}

func (c *Core) sendStep(s *session, kind byte, m setStep) {
	c.send(s.peer, kind, appendSetStep(nil, m), true)
}

// session finds the one that a peer's frame is about.
func (c *Core) session(l *link, id uint64, now time.Duration) *session {
	for _, s := range []*session{c.fetched, c.served} {
		if s != nil && s.peer == l.peer && s.id == id {
			s.last = now
			return s
		}
	}
	return nil
}

func (c *Core) heardSet(l *link, m setStep, opens bool, now time.Duration) error {
	s := c.session(l, m.ID, now)
	switch {
	case opens && s != nil:
		return nil // come twice
	case opens && (!m.Replica || m.Number != 0):
		return fmt.Errorf("opens a set session wrongly: %w", ErrCorrupt)
	case opens && c.crossed(l):
		return nil // the peer takes ours
	case opens && (c.served != nil || c.joining), s == nil && !opens:
		c.send(l.peer, kindSetEnd, appendSetEnd(nil, setEnd{ID: m.ID, Failed: true}), false)
		return nil
	case opens:
		c.serveSession(l, m, now)
		return nil
	case s.set == nil || s.compared || m.Number != s.number:
		return nil // come twice, or one before it was lost
	}
	return c.stepSession(s, m, nil, now)
}

// crossed: both open one at once. That of the smaller name goes on, and the
// other end drops its own without a word.
func (c *Core) crossed(l *link) bool {
	f := c.fetched
	if f == nil || f.peer != l.peer || f.replica {
		return false
	}
	if c.o.Self < l.peer {
		return true
	}
	c.forget(f)
	return false
}

func (c *Core) serveSession(l *link, m setStep, now time.Duration) {
	s := &session{id: m.ID, peer: l.peer, divergence: m.Diverged, last: now}
	c.served = s
	c.counts.Sets++
	c.digest(s, func(r Result) {
		s.set = reconcile.NewSession(r.set)
		if err := c.stepSession(s, m, &r, now); err != nil {
			c.cut(l, err.Error(), now)
		}
	})
}

// stepSession takes a message in and answers, with our replica if it is our
// first.
func (c *Core) stepSession(s *session, m setStep, first *Result, now time.Duration) error {
	if m.Replica {
		s.vector, s.floor, s.replica = m.Vector, m.Floor, true
		c.o.Store.Report(c.link(s.peer).progress.Actor, m.Vector)
	}
	answer, asks, err := s.set.Step(m.Message)
	if err != nil {
		return err
	}
	s.cut = s.cut || m.Cut || s.set.Cut()
	if !m.Last {
		out := setStep{ID: s.id, Number: m.Number + 1, Last: !asks, Cut: s.cut, Message: answer}
		s.number = m.Number + 2
		if first != nil {
			out.Replica, out.Vector, out.Floor = true, first.vector, first.floor
		}
		c.sendStep(s, kindSetStep, out)
	}
	if m.Last || !asks {
		return c.comparedSets(s, now)
	}
	return nil
}

// comparedSets begins to ask for what differs.
func (c *Core) comparedSets(s *session, now time.Duration) error {
	if !s.replica {
		return fmt.Errorf("ends a set session without its vector: %w", ErrCorrupt)
	}
	s.compared = true
	found := s.set.Found()
	for _, d := range found {
		// Also those that it does not name: stable tombstones are left out of what
		// is compared, and this peer's disk may have lost one.
		s.keys = append(s.keys, d.Key)
	}
	if s.divergence && c.o.Diverged != nil {
		c.o.Diverged(s.peer, found[:min(len(found), maxDumped)])
	}
	c.pumpSession(s, c.link(s.peer), now)
	return nil
}

// pumpSession asks for states, and ends our side when all are merged.
func (c *Core) pumpSession(s *session, l *link, now time.Duration) {
	if s == nil || l == nil || l.peer != s.peer || !s.compared || s.ours || s.asked > 0 || l.pending > holdBytes/2 {
		return
	}
	if len(s.keys) > 0 {
		n, bytes := 0, 0
		for n < min(len(s.keys), stateKeys) && bytes < stateKeyBytes {
			bytes += len(s.keys[n])
			n++
		}
		s.asked, s.last = n, now
		s.round++
		c.counts.SetKeys += uint64(n)
		c.send(l.peer, kindStatesAsk, appendStatesAsk(nil, statesAsk{ID: s.id, Round: s.round, Keys: s.keys[:n]}), false)
		return
	}
	if s.merging > 0 || s.adopting {
		return
	}
	if s.failed {
		c.endSession(s, true, now)
		return
	}
	c.adoptSession(s)
}

// adoptSession claims what the peer's states covered, unless the session could
// not carry all differences: then another goes on from here.
func (c *Core) adoptSession(s *session) {
	s.adopting = true
	v := s.vector
	if s.cut {
		v = vector.Vector{}
	}
	c.adopt(v, s.floor, func(err error, now time.Duration) {
		if c.fetched != s && c.served != s {
			return
		}
		if err != nil {
			c.endSession(s, true, now)
			return
		}
		s.ours, s.last = true, now
		c.send(s.peer, kindSetEnd, appendSetEnd(nil, setEnd{ID: s.id}), false)
		c.settleSession(s, now)
	})
}

func (c *Core) settleSession(s *session, now time.Duration) {
	if !s.ours || !s.theirs {
		return
	}
	c.forget(s)
	if l := c.link(s.peer); l != nil && s.begun {
		if s.cut {
			c.openSession(l, false, now)
		} else {
			c.compare(l, true, now)
		}
	}
}

func (c *Core) forget(s *session) {
	if c.fetched == s {
		c.fetched = nil
	}
	if c.served == s {
		c.served = nil
	}
}

// endSession gives one up.
func (c *Core) endSession(s *session, tell bool, now time.Duration) {
	if c.fetched != s && c.served != s {
		return
	}
	c.forget(s)
	c.counts.SetsFailed++
	if s.begun {
		c.nextSets = now + c.o.Timing.Retry + time.Duration(c.o.Random.Int64N(int64(c.o.Timing.Retry)))
	}
	if tell && c.link(s.peer) != nil {
		c.send(s.peer, kindSetEnd, appendSetEnd(nil, setEnd{ID: s.id, Failed: true}), false)
	}
}

func (c *Core) heardSetEnd(l *link, e setEnd, now time.Duration) {
	s := c.session(l, e.ID, now)
	switch {
	case s == nil:
	case e.Failed:
		c.endSession(s, false, now)
	default:
		s.theirs = true
		c.settleSession(s, now)
	}
}

func (c *Core) heardStatesAsk(l *link, a statesAsk, now time.Duration) error {
	s := c.session(l, a.ID, now)
	if s == nil {
		c.send(l.peer, kindSetEnd, appendSetEnd(nil, setEnd{ID: a.ID, Failed: true}), false)
		return nil
	}
	return c.answer(l, Work{kind: statesWork, id: a.ID, round: a.Round, keys: a.Keys}, func(r Result) {
		if r.err != nil {
			c.endSession(s, true, l.used)
			return
		}
		s.last = max(s.last, l.used)
		c.send(l.peer, kindStates, r.payload, true)
	})
}

func (c *Core) heardStates(l *link, m states, bytes int, now time.Duration) error {
	s := c.session(l, m.ID, now)
	if s == nil || s.asked == 0 || m.Round != s.round {
		return c.unasked(l, bytes) // given up meanwhile
	}
	if m.Answered == 0 || m.Answered > s.asked || len(m.Deltas) > m.Answered {
		return fmt.Errorf("answers for %d states where %d were asked for: %w", m.Answered, s.asked, ErrCorrupt)
	}
	if err := c.admitBytes(l, bytes); err != nil {
		return err
	}
	s.keys, s.asked = s.keys[m.Answered:], 0
	if len(m.Deltas) > 0 {
		s.merging++
		c.merge(l, m.Deltas, bytes, func(err error, now time.Duration) {
			s.merging--
			s.last = now
			s.failed = s.failed || err != nil
		})
	}
	c.pump(l, now)
	return nil
}
