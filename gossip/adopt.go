package gossip

import (
	"errors"
	"slices"
	"time"

	"shoal/store"
	"shoal/store/vector"
)

// adoptTries and adoptEvery: a vector cannot be claimed while some of what it
// covers is held back as from the future, which a small skew of clocks makes
// pass soon. All of it need not be sent again for that.
const (
	adoptTries = 30
	adoptEvery = time.Second
)

// adoption is a vector to be claimed later.
type adoption struct {
	at     time.Duration
	vector vector.Vector
	floor  uint64
	tries  int
	then   func(error, time.Duration)
}

// adopt claims a vector after all that it covers was merged.
func (c *Core) adopt(v vector.Vector, floor uint64, then func(error, time.Duration)) {
	c.tryAdopt(adoption{vector: v, floor: floor, then: then})
}

func (c *Core) tryAdopt(a adoption) {
	c.work(Work{kind: adoptWork, vector: a.vector, floor: a.floor}, func(r Result, now time.Duration) {
		a.tries++
		if !errors.Is(r.err, store.ErrHeldBack) || a.tries >= adoptTries {
			a.then(r.err, now)
			return
		}
		a.at = now + adoptEvery
		c.adoptions = append(c.adoptions, a)
		for _, s := range []*session{c.fetched, c.served} {
			if s != nil && s.adopting {
				s.last = now
			}
		}
	})
}

func (c *Core) retryAdoptions(now time.Duration) {
	due := func(a adoption) bool { return now >= a.at }
	for _, a := range slices.Clone(c.adoptions) {
		if due(a) {
			c.tryAdopt(a)
		}
	}
	c.adoptions = slices.DeleteFunc(c.adoptions, due)
}
