package gossip

import (
	"time"

	"shoal/gossip/plumtree"
	"shoal/store/vector"
)

// exchange compares with a random member, over its link or a short one.
func (c *Core) exchange(now time.Duration) {
	every := c.o.Timing.Exchange
	c.nextExchange = now + every*3/4 + time.Duration(c.o.Random.Int64N(int64(every/2)+1))
	if len(c.members) == 0 {
		c.nextExchange = never
		return
	}
	i := c.o.Random.IntN(len(c.members))
	if c.members[i].Name == c.o.Self {
		i = (i + 1) % len(c.members)
	}
	if p := c.members[i].Name; p != c.o.Self {
		c.compareWith(p, now)
	}
}

func (c *Core) compareWith(p plumtree.Peer, now time.Duration) {
	if l := c.link(p); l != nil {
		c.compare(l, false, now)
		return
	}
	if c.calling == "" {
		c.calling, c.callingUntil = p, now+c.o.Timing.Answer
		c.out.Dial = append(c.out.Dial, p)
	}
}

// compare asks whether the peer holds the same.
func (c *Core) compare(l *link, urgent bool, now time.Duration) {
	s := c.summary()
	s.Urgent = urgent
	l.used, l.asked = now, max(now, 1)
	c.counts.Exchanges++
	c.send(l.peer, kindCompare, appendSummary(nil, s), false)
}

func (c *Core) summary() summary {
	s := c.o.Store
	prints := s.Fingerprints()
	return summary{Actor: s.Actor(), Digest: s.VectorDigest(), Fingerprint: prints.Root(), Floor: s.Floor()}
}

// heardCompare answers with a summary if both hold the same, else with a
// vector.
func (c *Core) heardCompare(l *link, theirs summary, now time.Duration) {
	if !l.compares.take(1, now) {
		return // its next one is as good
	}
	ours := c.summary()
	if theirs.Digest != ours.Digest {
		c.sendVector(l, true, theirs.Urgent)
		l.progress.Actor = theirs.Actor
		return
	}
	c.send(l.peer, kindSame, appendSummary(nil, ours), false)
	c.same(l, theirs, ours, now)
}

func (c *Core) heardSame(l *link, theirs summary, now time.Duration) {
	c.measure(l, now)
	ours := c.summary()
	if ours.Digest == theirs.Digest { // else we went on meanwhile
		c.same(l, theirs, ours, now)
	}
}

func (c *Core) measure(l *link, now time.Duration) {
	if l.asked > 0 {
		l.progress.RTT, l.asked = now-min(l.asked, now), 0
	}
}

// same: the peer's vector is ours, by its digest.
func (c *Core) same(l *link, theirs, ours summary, now time.Duration) {
	c.counts.Equal++
	l.progress.Actor, l.progress.Exchanged = theirs.Actor, now
	l.progress.Behind, l.progress.Ahead = 0, 0
	v := c.o.Store.Vector()
	if c.o.Store.VectorDigest() == ours.Digest { // v is what was compared
		c.o.Store.Report(theirs.Actor, v)
	}
	c.raiseFloor(theirs.Floor)
	c.judge(l.peer, theirs.Fingerprint == ours.Fingerprint, now)
}

func (c *Core) raiseFloor(floor uint64) {
	if floor > max(c.o.Store.Floor(), c.raising) {
		c.raising = floor
		c.work(Work{kind: adoptWork, vector: vector.Vector{}, floor: floor}, func(Result, time.Duration) {
			c.raising = 0 // if it failed, the next that is heard of does it
		})
	}
}

func (c *Core) sendVector(l *link, answer, urgent bool) {
	s := c.o.Store
	c.send(l.peer, kindVector, appendHolding(nil, holding{
		Actor: s.Actor(), Floor: s.Floor(), Vector: s.Vector(), Answer: answer, Urgent: urgent,
	}), false)
}

func (c *Core) heardVector(l *link, theirs holding, now time.Duration) {
	if theirs.Answer {
		c.sendVector(l, false, theirs.Urgent)
		c.measure(l, now)
	}
	c.o.Store.Report(theirs.Actor, theirs.Vector)
	c.raiseFloor(theirs.Floor)
	ours := c.o.Store.Vector()
	missing := ours.Missing(theirs.Vector)
	l.progress.Actor, l.progress.Exchanged = theirs.Actor, now
	l.progress.Behind, l.progress.Ahead = missing.Count(), theirs.Vector.Missing(ours).Count()
	c.unsuspect(l.peer)
	if c.joining {
		c.join(l, theirs, now)
		return
	}
	missing = c.underway().Missing(missing)
	switch {
	case len(missing) == 0:
	case theirs.Urgent || missing.Count() > manyMissing:
		c.want(l, missing, now)
	case len(l.noted) == 0:
		l.noted, l.notedAt = missing, now
	}
}

// underway is what was asked for, waits to be merged or is held back.
func (c *Core) underway() vector.Vector {
	v := c.heldBack.Clone()
	for _, m := range c.merges {
		for _, d := range m.dots {
			if _, err := v.Add(d.Actor, d.Sequence); err != nil {
				break // what does not fit is asked for twice
			}
		}
	}
	for _, l := range c.links {
		for _, part := range []vector.Vector{l.fetch.left, l.fetch.asked} {
			if err := v.Merge(part); err != nil {
				break // likewise
			}
		}
	}
	return v
}
