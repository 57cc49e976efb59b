package stats

import (
	"sync"
	"time"
)

const (
	// rateGap is how far apart the two readings of a rate should be: ticks of
	// a busy machine average out, and a spike still shows.
	rateGap = 5 * time.Second
	// rateGapLeast is the least a rate is made of when nobody asked before.
	rateGapLeast = 900 * time.Millisecond
	// rateOld is when a reading is of no use any more: a rate since then would
	// not tell what happens now.
	rateOld = 2 * time.Minute
)

// reading is processor time used until a moment.
type reading struct {
	at          time.Time
	nanoseconds uint64
}

// history is the last reading of a group and one before, at least rateGap
// older.
type history struct {
	before, last reading
	window       time.Duration // of the rate told last
}

// rates remembers the readings rates are made of.
type rates struct {
	mu   sync.Mutex
	seen map[string]*history // by group; guarded by mu
}

// note takes a reading in. It answers with the nanoseconds of processor time
// per second since an earlier one and with the time between; zero when there
// is none. began, if not zero, is when the group was made and had used none.
func (r *rates) note(group string, now reading, began time.Time) (perSecond uint64, window time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.seen[group]
	if h == nil || now.nanoseconds < h.last.nanoseconds { // new, or made anew under this name
		h = &history{last: now}
		if !began.IsZero() {
			h.before = reading{at: began}
		}
		r.seen[group] = h
	} else if now.at.Sub(h.last.at) >= rateGap {
		h.before, h.last = h.last, now
	}
	if perSecond, window = rate(h.before, now); window == 0 {
		perSecond, window = rate(h.last, now)
	}
	h.window = window
	return perSecond, window
}

func rate(from, to reading) (uint64, time.Duration) {
	window := to.at.Sub(from.at)
	if from.at.IsZero() || window < rateGapLeast || window > rateOld || to.nanoseconds < from.nanoseconds {
		return 0, 0
	}
	return uint64(float64(to.nanoseconds-from.nanoseconds) / window.Seconds()), window
}

// keep forgets all groups but those named.
func (r *rates) keep(groups map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.seen {
		if !groups[name] {
			delete(r.seen, name)
		}
	}
}
