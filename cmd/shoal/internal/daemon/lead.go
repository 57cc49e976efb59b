//go:build linux

package daemon

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"shoal/sched"
	"shoal/sched/controllers"
	"shoal/sched/slices"
)

// newLeader starts what says which slices of the cell's work this host leads.
func (p *peer) newLeader(ctx context.Context, group *errgroup.Group) (*slices.Leader, error) {
	client, err := kubernetes.NewForConfig(p.server.ClientConfig("shoal-slices"))
	if err != nil {
		return nil, fmt.Errorf("make client for slices: %w", err)
	}
	records, err := slices.NewLeases(client)
	if err != nil {
		return nil, err
	}
	changed, stop := p.node.Watch()
	l := &slices.Leader{
		Self: p.config.Name, Alive: p.node.Names, Changed: changed, Alone: p.alone,
		Records: records, Logger: p.log.With("part", "slices"),
	}
	group.Go(func() error { return named("records of slices", records.Run(ctx)) })
	group.Go(func() error {
		defer stop()
		return named("slices", l.Run(ctx))
	})
	return l, nil
}

// oneOf is the slice of work that one host does whole.
func oneOf(work string) slices.Set { return slices.Set{}.With(slices.Of(work)) }

// lead runs work on this host while it leads any of the wanted slices.
func (p *peer) lead(ctx context.Context, group *errgroup.Group, work string, leader *slices.Leader, wanted slices.Set, run func(context.Context) error) {
	log := p.log.With("part", "lead", "work", work)
	group.Go(func() error { return named(work, leader.While(ctx, wanted, log, run)) })
}

// scheduler returns what schedules the pods of the slices led, for one term.
func (p *peer) scheduler(client kubernetes.Interface, shared informers.SharedInformerFactory, leader *slices.Leader) func(context.Context) error {
	return func(ctx context.Context) error {
		return sched.New(sched.Options{
			Client: client, Informers: shared, Alive: p.node.Alive, Slices: leader, Logger: p.log.With("part", "sched"),
		}).Run(ctx)
	}
}

// controllers returns what runs the controllers for one term. Upstream's loops
// register handlers before they are made ready for events, and cannot take them
// off again. So a term that begins before the daemon's informers are started uses
// those, and tells by built when they may be; any other has informers of its own,
// which end with it.
func (p *peer) controllers(ca []byte, shared informers.SharedInformerFactory, built func()) func(context.Context) error {
	return func(ctx context.Context) error {
		config := p.server.ClientConfig("shoal-controllers")
		own := shared
		if p.informing.Load() {
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			own = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(controllers.StripManagedFields))
			defer own.Shutdown()
		}
		return controllers.Run(ctx, controllers.Options{Config: config, Informers: own, RootCA: ca, Built: built, Logger: p.log.With("part", "controllers")})
	}
}

// alone: there is nobody else to wait for.
func (p *peer) alone() bool { return len(p.node.registered()) <= 1 }
