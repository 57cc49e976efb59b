package join

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// attemptsPerMinute of one source that show a token. A rack of hosts behind
	// one address joins in a minute or two; guessing 82 bits takes for ever.
	attemptsPerMinute = 20
	// maxSources remembered; beyond it the whole table starts over, which at
	// this rate of strangers costs nothing but forgotten counts.
	maxSources = 4096
)

// limiter counts attempts per source and minute.
type limiter struct {
	mu      sync.Mutex
	sources map[netip.Addr]*window // guarded by mu
}

type window struct {
	begun time.Time
	count int
}

// take counts an attempt; wait is how long until the source may try again.
func (l *limiter) take(source netip.Addr, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sources == nil || len(l.sources) >= maxSources {
		l.sources = map[netip.Addr]*window{}
	}
	w := l.sources[source]
	if w == nil || now.Sub(w.begun) >= time.Minute || now.Before(w.begun) {
		w = &window{begun: now}
		l.sources[source] = w
	}
	if w.count >= attemptsPerMinute {
		return w.begun.Add(time.Minute).Sub(now), false
	}
	w.count++
	return 0, true
}
