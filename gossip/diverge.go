package gossip

import (
	"fmt"
	"slices"
	"time"

	"shoal/gossip/plumtree"
)

// minDoubts comparisons must have shown a difference: one alone may have met
// a commit half way.
const minDoubts = 3

// Alarm is something wrong that a person should know of.
type Alarm struct {
	Code, Severity, Text, Fix string
	Since                     time.Duration
}

// suspect is a peer whose vector equals ours and whose records do not.
type suspect struct {
	peer        plumtree.Peer
	since, next time.Duration
	doubts      int
	raised      bool
}

// judge takes in whether a peer with our vector has our records.
func (c *Core) judge(p plumtree.Peer, equal bool, now time.Duration) {
	i := slices.IndexFunc(c.suspects, func(s *suspect) bool { return s.peer == p })
	switch {
	case equal && i >= 0:
		c.suspects = slices.Delete(c.suspects, i, i+1)
		c.clearAlarm()
	case equal:
	case i < 0 && len(c.suspects) < maxSuspects:
		c.suspects = append(c.suspects, &suspect{peer: p, since: now, doubts: 1, next: now + c.o.Timing.Recheck})
	case i >= 0:
		s := c.suspects[i]
		s.doubts++
		if s.doubts >= minDoubts && now >= s.since+c.o.Timing.Diverged {
			c.diverged(s, now)
		}
	}
}

// unsuspect: different vectors say nothing about the records under them.
func (c *Core) unsuspect(p plumtree.Peer) {
	c.suspects = slices.DeleteFunc(c.suspects, func(s *suspect) bool { return s.peer == p && !s.raised })
}

func (c *Core) diverged(s *suspect, now time.Duration) {
	if !s.raised {
		s.raised = true
		c.counts.Divergent++
	}
	if c.alarm == nil {
		c.alarm = &Alarm{
			Code: "diverged", Severity: "error", Since: now,
			Text: fmt.Sprintf("this peer and %s have seen the same writes and hold different records; they are being repaired", s.peer),
			Fix:  "keep the log lines that name the differing keys and report them as a bug of shoal; if the alarm stays, leave the cell with one of the two, empty its directory and join again",
		}
	}
	if l := c.link(s.peer); l != nil {
		c.openSession(l, true, now)
	}
}

func (c *Core) clearAlarm() {
	if !slices.ContainsFunc(c.suspects, func(s *suspect) bool { return s.raised }) {
		c.alarm = nil
	}
}

func (c *Core) recheckSuspects(now time.Duration) {
	for _, s := range c.suspects {
		if now >= s.next {
			s.next = now + c.o.Timing.Recheck
			c.compareWith(s.peer, now)
		}
	}
}
