package store

import "time"

// Clock is where the store reads time, so that a simulator can own it.
type Clock interface {
	Now() time.Time
	// After delivers once, d from now, like time.After.
	After(d time.Duration) <-chan time.Time
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now returns the current time.
func (SystemClock) Now() time.Time { return time.Now() }

// After waits on the machine's clock.
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// HLC is a hybrid logical clock reading (Kulkarni et al., "Logical Physical
// Clocks", 2014) in one word: microseconds since 2024 in the upper 52 bits, a
// logical counter in the lower 12. Comparing two readings as integers orders
// them causally.
type HLC uint64

// hlcLogicalBits leaves 4,096 readings within one microsecond before the
// physical part is pushed ahead of the clock.
const hlcLogicalBits = 12

// Tick returns the reading of a local event at time now, later than h.
func (h HLC) Tick(now time.Time) HLC {
	if physical := HLC(microseconds(now) << hlcLogicalBits); physical > h {
		return physical
	}
	return h + 1
}

// Observe returns the reading after hearing of remote at time now: later than
// both, so that whatever happens here next is ordered after it.
func (h HLC) Observe(remote HLC, now time.Time) HLC {
	return max(h, remote).Tick(now)
}

// Time returns the physical part.
func (h HLC) Time() time.Time {
	return epoch2024.Add(time.Duration(h>>hlcLogicalBits) * time.Microsecond)
}
