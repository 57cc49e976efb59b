package sched

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"
)

// TestLeader: all agree whatever the order, and who leaves moves only its share.
func TestLeader(t *testing.T) {
	var peers []string
	for i := range 20 {
		peers = append(peers, fmt.Sprintf("node-%d", i))
	}
	led := map[string]int{}
	for work := range 256 {
		name := fmt.Sprint(work)
		leader := Leader(name, peers)
		led[leader]++
		turned := slices.Clone(peers)
		slices.Reverse(turned)
		if Leader(name, turned) != leader {
			t.Fatal("the order of peers matters")
		}
		without := slices.DeleteFunc(slices.Clone(peers), func(p string) bool { return p == "node-3" })
		if now := Leader(name, without); leader != "node-3" && now != leader {
			t.Errorf("work %s moved from %s to %s though node-3 left", name, leader, now)
		}
	}
	for _, p := range peers {
		if led[p] == 0 || led[p] > 40 {
			t.Errorf("%s leads %d of 256", p, led[p])
		}
	}
	if Leader("x", nil) != "" {
		t.Error("nobody leads among nobody")
	}
}

// TestLeadTakesTurns: a peer leads alone at once, gives up when a stable one
// with a higher hash is there, and takes over when that fails.
func TestLeadTakesTurns(t *testing.T) {
	self, other := "a", "b"
	if Leader("w", []string{self, other}) == self {
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
		deadline := time.Now().Add(10 * time.Second)
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
