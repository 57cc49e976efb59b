package sched

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"

	"shoal/gossip/rendezvous"
)

// TestLeadTakesTurns: a peer leads alone at once, gives up when a stable one
// with a higher hash is there, and takes over when that fails.
func TestLeadTakesTurns(t *testing.T) {
	self, other := "a", "b"
	if rendezvous.First("w", []string{self, other}) == self {
		self, other = other, self
	}
	var mu sync.Mutex
	alive, alone, running := []string{self}, true, false
	set := func(peers []string, only bool) {
		mu.Lock()
		defer mu.Unlock()
		alive, alone = peers, only
	}
	changed := make(chan struct{}, 1)
	clk := testingclock.NewFakeClock(time.Unix(1000, 0))
	l := &Lead{
		Work: "w", Self: self, Changed: changed, Clock: clk, Logger: slog.New(slog.DiscardHandler),
		Alive: func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(alive) },
		Alone: func() bool { mu.Lock(); defer mu.Unlock(); return alone },
		Run: func(ctx context.Context) error {
			mu.Lock()
			running = true
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			running = false
			mu.Unlock()
			return ctx.Err()
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.While(ctx) }()
	await := func(what string, want bool) {
		t.Helper()
		deadline := time.Now().Add(2 * time.Minute)
		for {
			mu.Lock()
			got := running
			mu.Unlock()
			if got == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
			select {
			case changed <- struct{}{}:
			default:
			}
			time.Sleep(time.Millisecond)
		}
	}
	await("alone and not leading", true)
	set([]string{self, other}, false)
	clk.Step(stableFor + time.Second) // self has been alive, the other is new
	await("gave up to a peer that just came", true)
	for range 3 {
		changed <- struct{}{}
	}
	clk.Step(stableFor + time.Second)
	await("kept leading beside a stable peer with a higher hash", false)
	set([]string{self}, false)
	await("did not take over from a failed peer", true)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	await("went on after the end", false)
}
