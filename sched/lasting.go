package sched

import (
	"context"

	"k8s.io/client-go/informers"
)

// Lasting is a factory shared by work that is led in terms and by what goes on
// without: its informers end when ctx does, whoever starts them. A plain factory
// ends an informer with the term that was the first to start it, and never
// starts it again.
func Lasting(ctx context.Context, shared informers.SharedInformerFactory) informers.SharedInformerFactory {
	return lasting{shared, ctx.Done()}
}

type lasting struct {
	informers.SharedInformerFactory
	until <-chan struct{}
}

// Start starts what was asked for since the last call.
func (l lasting) Start(<-chan struct{}) { l.SharedInformerFactory.Start(l.until) }

// StartWithContext is Start.
func (l lasting) StartWithContext(context.Context) { l.Start(nil) }
