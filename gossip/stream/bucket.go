package stream

import "time"

// bucket bounds a link's bytes per second. It holds up to burst tokens, may go
// into debt for one batch, and then makes the next one wait.
type bucket struct {
	perSecond, burst float64
	tokens           float64
	last             time.Time
}

func newBucket(perSecond, burst int, now time.Time) *bucket {
	return &bucket{perSecond: float64(perSecond), burst: float64(burst), tokens: float64(burst), last: now}
}

// take spends n tokens and returns how long to wait before the bytes may go.
func (b *bucket) take(n int, now time.Time) time.Duration {
	if passed := now.Sub(b.last); passed > 0 {
		b.tokens = min(b.burst, b.tokens+passed.Seconds()*b.perSecond)
		b.last = now
	}
	b.tokens -= float64(n)
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens / b.perSecond * float64(time.Second))
}
