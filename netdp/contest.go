package netdp

import (
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// contestMemory is how long a thing must stay after it was put back until nothing
	// is remembered of it. It is longer than the longest wait.
	contestMemory = 15 * time.Minute
	// A thing is put back at once; when it goes again, not sooner than a wait after the
	// last time, and that doubles up to a bound, so that two who disagree about it cost
	// next to nothing.
	firstContestWait = time.Second
	maxContestWait   = 5 * time.Minute
	// contestedAfter is how often something goes until that is no mishap.
	contestedAfter = 4
)

// contests is who keeps taking away what is put back: how often, by thing.
type contests struct {
	mu    sync.Mutex
	known map[string]contest // guarded by mu; things of the host, all pods' among them
}

type contest struct {
	times int // it was put back, each time within contestMemory of the last
	last  time.Time
}

func (c contest) wait() time.Duration {
	wait := firstContestWait
	for n := 1; n < c.times && wait < maxContestWait; n++ {
		wait *= 2
	}
	return min(wait, maxContestWait)
}

// held reports that it is too early to put a thing back once more.
func (c *contests) held(what string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[what]
	return ok && now.Sub(k.last) < k.wait()
}

// put notes that a thing was put back.
func (c *contests) put(what string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	if c.known == nil {
		c.known = map[string]contest{}
	}
	c.known[what] = contest{c.known[what].times + 1, now}
}

// contested are the things that went again and again, sorted.
func (c *contests) contested(now time.Time) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	var out []string
	for what, k := range c.known {
		if k.times >= contestedAfter {
			out = append(out, what)
		}
	}
	slices.Sort(out)
	return out
}

// forget needs mu.
func (c *contests) forget(now time.Time) {
	maps.DeleteFunc(c.known, func(_ string, k contest) bool { return now.Sub(k.last) >= contestMemory })
}

// Contested are the things of the datapath that somebody takes away again and again,
// in words for people; each is put back ever more seldom. It is empty some minutes
// after that has ended.
func (d *Datapath) Contested() []string { return d.contests.contested(time.Now()) }
