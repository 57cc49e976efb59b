package controllers

import (
	"context"
	"testing"

	"shoal/sched"
	"shoal/sched/internal/testpeer"
)

// peer is the API server all tests here share, with the scheduler and all
// controllers running.
var peer *testpeer.Peer

func TestMain(m *testing.M) {
	testpeer.Main(m, func(p *testpeer.Peer) []func(context.Context) error {
		peer = p
		scheduler := sched.New(sched.Options{Client: p.Client, Informers: p.Informers(), Logger: p.Log})
		return []func(context.Context) error{
			scheduler.Run,
			func(ctx context.Context) error {
				return Run(ctx, Options{Config: p.ClientConfig("controllers"), Informers: p.Informers(), RootCA: p.RootCA, Logger: p.Log})
			},
		}
	})
}
