package sim

import "time"

// began is when simulated time starts.
var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clock is one host's: ahead of true time by skew, and seen in steps of grain,
// so that two hosts often read the same.
type clock struct {
	loop  *loop
	skew  time.Duration
	grain time.Duration
}

// Now implements store.Clock.
func (c *clock) Now() time.Time {
	return began.Add((c.loop.now + c.skew).Truncate(c.grain))
}

// After implements store.Clock; no Replica waits.
func (c *clock) After(time.Duration) <-chan time.Time { panic("a replica waited for time to pass") }
