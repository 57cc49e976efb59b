package gossip

import (
	"slices"
	"time"

	"shoal/store/vector"
)

// Tick lets time pass.
func (c *Core) Tick(now time.Duration) {
	c.tree.Tick(now)
	c.flushTree()
	for _, l := range slices.Clone(c.links) {
		c.tickLink(l, now)
	}
	for _, s := range []*session{c.fetched, c.served} {
		if s != nil && now >= s.last+c.o.Timing.Session {
			c.endSession(s, true, now)
		}
	}
	if c.snapshot != nil && !c.snapshot.adopting && now >= c.snapshot.last+c.o.Timing.Session {
		c.failSnapshot(now)
	}
	if len(c.heldBack) > 0 && now >= c.retryHeld {
		c.heldBack = vector.Vector{}
	}
	if c.calling != "" && now >= c.callingUntil {
		c.calling = ""
	}
	if now >= c.nextExchange {
		c.exchange(now)
	}
	c.recheckSuspects(now)
	c.retryAdoptions(now)
}

func (c *Core) tickLink(l *link, now time.Duration) {
	t := &c.o.Timing
	if l.asked > 0 && now >= l.asked+t.Answer {
		l.asked = 0
	}
	if len(l.noted) > 0 && now >= l.notedAt+t.Patience {
		noted := l.noted
		l.noted = nil
		c.want(l, noted, now)
	}
	if len(l.fetch.asked) > 0 && now >= l.fetch.at+t.Answer {
		l.fetch = fetch{}
	}
	if !l.inTree && now >= l.used+t.Idle {
		c.close(l, "", now)
	}
}

// Deadline is when Tick next has something to do; false if nothing is waited
// for.
func (c *Core) Deadline() (time.Duration, bool) {
	t := &c.o.Timing
	at, _ := c.tree.Deadline()
	at = min(at, c.nextExchange)
	for _, l := range c.links {
		if l.asked > 0 {
			at = min(at, l.asked+t.Answer)
		}
		if len(l.noted) > 0 {
			at = min(at, l.notedAt+t.Patience)
		}
		if len(l.fetch.asked) > 0 {
			at = min(at, l.fetch.at+t.Answer)
		}
		if !l.inTree {
			at = min(at, l.used+t.Idle)
		}
	}
	for _, s := range []*session{c.fetched, c.served} {
		if s != nil {
			at = min(at, s.last+t.Session)
		}
	}
	if c.snapshot != nil && !c.snapshot.adopting {
		at = min(at, c.snapshot.last+t.Session)
	}
	if len(c.heldBack) > 0 {
		at = min(at, c.retryHeld)
	}
	if c.calling != "" {
		at = min(at, c.callingUntil)
	}
	for _, a := range c.adoptions {
		at = min(at, a.at)
	}
	for _, s := range c.suspects {
		at = min(at, s.next)
	}
	return at, at != never
}
