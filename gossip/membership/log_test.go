package membership

import (
	"testing"
	"time"
)

func TestNoLinePerPacket(t *testing.T) {
	l, now := newSerfLog(nil), time.Unix(1000, 0)
	passed := 0
	for range 100_000 {
		if _, ok := l.allow(now); ok {
			passed++
		}
	}
	if passed != logLines {
		t.Errorf("%d lines in one period", passed)
	}
	if dropped, ok := l.allow(now.Add(logPeriod)); !ok || dropped != 100_000-logLines {
		t.Errorf("%v, and %d were dropped before", ok, dropped)
	}
}
