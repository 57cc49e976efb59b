package sched

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/tools/cache"

	"shoal/sched/internal/testpeer"
)

// peer is the API server all tests here share, with a scheduler running.
var peer *testpeer.Peer

func TestMain(m *testing.M) {
	testpeer.Main(m, func(p *testpeer.Peer) []func(context.Context) error {
		peer = p
		return []func(context.Context) error{lead}
	})
}

// running is the scheduler of the tests.
var running atomic.Pointer[Scheduler]

// gone has the names of nodes whose hosts gossip does not call alive, and how
// often the scheduler has asked.
var gone sync.Map // of *atomic.Int64

func alive(node string) bool {
	asked, dead := gone.Load(node)
	if n, ok := asked.(*atomic.Int64); ok {
		n.Add(1)
	}
	return !dead
}

// lead schedules for a first term, which ends, and for a second one, which the
// tests have.
func lead(ctx context.Context) error {
	o := Options{Client: peer.Client, Informers: Lasting(ctx, peer.Informers()), Alive: alive, Slices: share, Logger: peer.Log}
	term, end := context.WithCancel(ctx)
	defer end()
	first := New(o)
	over := make(chan error, 1)
	go func() { over <- first.Run(term) }()
	cache.WaitForCacheSync(ctx.Done(), first.synced...)
	end()
	<-over // an error says no more than that the term was short
	second := New(o)
	running.Store(second)
	return second.Run(ctx)
}
