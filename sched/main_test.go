package sched

import (
	"context"
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

// lead schedules for a first term, which ends, and for a second one, which the
// tests have.
func lead(ctx context.Context) error {
	o := Options{Client: peer.Client, Informers: Lasting(ctx, peer.Informers()), Logger: peer.Log}
	term, end := context.WithCancel(ctx)
	defer end()
	first := New(o)
	over := make(chan error, 1)
	go func() { over <- first.Run(term) }()
	cache.WaitForCacheSync(ctx.Done(), first.synced...)
	end()
	<-over // an error says no more than that the term was short
	return New(o).Run(ctx)
}
