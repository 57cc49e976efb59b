package sched

import (
	"context"
	"testing"

	"shoal/sched/internal/testpeer"
)

// peer is the API server all tests here share, with a scheduler running.
var peer *testpeer.Peer

func TestMain(m *testing.M) {
	testpeer.Main(m, func(p *testpeer.Peer) []func(context.Context) error {
		peer = p
		scheduler := New(Options{Client: p.Client, Informers: p.Informers(), Logger: p.Log})
		return []func(context.Context) error{scheduler.Run}
	})
}
