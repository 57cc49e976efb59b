package gossip

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"shoal/store/vector"
)

// fetch is what is got from one peer by its dots: one question at a time, so
// that no more comes than was asked for.
type fetch struct {
	left, asked vector.Vector
	at          time.Duration
}

// want begins to ask a peer for dots that it holds.
func (c *Core) want(l *link, missing vector.Vector, now time.Duration) {
	missing = c.underway().Missing(c.o.Store.Vector().Missing(missing))
	if len(missing) == 0 {
		return
	}
	if l.fetch.left == nil {
		l.fetch.left = vector.Vector{}
	}
	if l.fetch.left.Merge(missing) != nil {
		l.fetch.left = missing // the rest at the next exchange
	}
	c.pump(l, now)
}

// pump asks for more, unless enough waits to be merged.
func (c *Core) pump(l *link, now time.Duration) {
	c.pumpSession(c.fetched, l, now)
	c.pumpSession(c.served, l, now)
	f := &l.fetch
	if len(f.asked) > 0 || len(f.left) == 0 || l.pending > holdBytes/2 {
		return
	}
	// Some may have come by the tree meanwhile.
	f.left = c.o.Store.Vector().Missing(f.left)
	if f.asked = piece(f.left); len(f.asked) == 0 {
		*f = fetch{}
		return
	}
	f.left, f.at = f.asked.Missing(f.left), now
	c.counts.Wants++
	l.used = now
	c.send(l.peer, kindWant, vector.AppendVector(nil, f.asked), false)
}

// piece is the first part of v, of bounded size.
func piece(v vector.Vector) vector.Vector {
	p, dots, spans := vector.Vector{}, uint64(wantDots), wantSpans
	for _, a := range slices.Sorted(maps.Keys(v)) {
		for _, s := range v[a] {
			if dots == 0 || spans == 0 {
				return p
			}
			s.Last = min(s.Last, s.First+dots-1)
			dots -= s.Last - s.First + 1
			spans--
			p[a] = append(p[a], s)
		}
	}
	return p
}

func (c *Core) heardWant(l *link, want vector.Vector) error {
	if n := want.Count(); n > wantDots {
		return fmt.Errorf("asks for %d deltas at once, limit %d", n, wantDots)
	}
	return c.answer(l, Work{kind: deltasWork, vector: want}, func(r Result) {
		if r.err != nil { // it will ask another
			r.payload = appendAnswer(nil, answer{})
		}
		c.send(l.peer, kindDeltas, r.payload, true)
	})
}

// answer works for a peer; the end is told only if its link is still there.
func (c *Core) answer(l *link, w Work, then func(Result)) error {
	if l.answering >= maxAnswers {
		return fmt.Errorf("asks for more before %d answers were given", maxAnswers)
	}
	l.answering++
	w.To = l.peer
	c.work(w, func(r Result, now time.Duration) {
		l.answering--
		if c.link(l.peer) == l {
			l.used = now
			then(r)
		}
	})
	return nil
}

func (c *Core) heardDeltas(l *link, a answer, bytes int, now time.Duration) error {
	asked := l.fetch.asked
	for i := range a.Deltas {
		for _, d := range a.Deltas[i].Dots() {
			if !asked.Has(d.Actor, d.Sequence) {
				return c.unasked(l, bytes) // too late
			}
		}
	}
	if len(asked) == 0 {
		return c.unasked(l, bytes)
	}
	if err := c.admitBytes(l, bytes); err != nil {
		return err
	}
	f := &l.fetch
	rest := a.Covered.Missing(asked)
	f.asked = nil
	if len(a.Deltas) > 0 {
		c.counts.FetchedDeltas += uint64(len(a.Deltas))
		for i := range a.Deltas {
			for _, d := range a.Deltas[i].Dots() {
				c.tree.Observe(idOf(d))
			}
		}
		c.merge(l, a.Deltas, bytes, nil)
	}
	switch {
	case a.Gone:
		l.fetch = fetch{}
		c.openSession(l, false, now)
	case len(a.Covered) == 0:
		// It has none of it after all; the next exchange tells.
		l.fetch = fetch{}
	case f.left.Merge(rest) != nil:
		f.left = rest
	}
	c.pump(l, now)
	return nil
}
