package netdp

import (
	"slices"
	"testing"
	"time"
)

// What goes again and again is put back ever more seldom, and told; what stays is
// forgotten.
func TestContests(t *testing.T) {
	var c contests
	now := time.Unix(1_000_000, 0)
	var waits []time.Duration
	for n := 1; n <= 12; n++ {
		if c.held("a", now) {
			t.Fatalf("held at try %d", n)
		}
		if got, want := len(c.contested(now)) > 0, n > contestedAfter; got != want {
			t.Errorf("contested before try %d: %t", n, got)
		}
		c.put("a", now)
		began := now
		for c.held("a", now) {
			now = now.Add(time.Second)
		}
		waits = append(waits, now.Sub(began)/time.Second)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300}; !slices.Equal(waits, want) {
		t.Errorf("waits %d seconds, want %d", waits, want)
	}
	if c.held("b", now) {
		t.Error("another thing is held")
	}
	now = now.Add(contestMemory)
	if got := c.contested(now); len(got) > 0 || len(c.known) > 0 {
		t.Errorf("contested after a while: %v of %v", got, c.known)
	}
}
