//go:build linux

package daemon

import (
	"context"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"shoal/sched"
	"shoal/sched/controllers"
)

// lead runs work on this host while it is the one to lead it.
func (p *peer) lead(ctx context.Context, group *errgroup.Group, work string, run func(context.Context) error) {
	changed, stop := p.node.Watch()
	l := &sched.Lead{
		Work: work, Self: p.config.Name, Alive: p.node.Names, Changed: changed, Run: run, Logger: p.log.With("part", "lead"),
		Alone: p.alone,
	}
	group.Go(func() error {
		defer stop()
		return named(work, l.While(ctx))
	})
}

// scheduler returns what schedules for one term.
func (p *peer) scheduler(client kubernetes.Interface, shared informers.SharedInformerFactory) func(context.Context) error {
	return func(ctx context.Context) error {
		return sched.New(sched.Options{Client: client, Informers: shared, Alive: p.node.Alive, Logger: p.log.With("part", "sched")}).Run(ctx)
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
