package healthport

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"shoal/netdp/services"
)

const (
	// A port that could not be opened is tried again after firstRetry, doubled
	// up to longestRetry.
	firstRetry   = time.Second
	longestRetry = time.Minute
)

// ReasonNoPort is the reason of the Event of a service whose port is not open
// on a host.
const ReasonNoPort = "FailedToStartServiceHealthcheck"

// Controller has the ports open that services want.
type Controller struct {
	followed *services.Followed
	queue    workqueue.TypedRateLimitingInterface[string]
	node     string
	forwards func(*corev1.Service) bool
	events   record.EventRecorder
	log      *slog.Logger

	servers map[string]*server // by service; only the goroutine of Run uses it
}

// New registers the informers it needs with the factory. forwards tells
// whether this host's kernel has a service; events, which may be nil, takes what went
// wrong.
func New(factory informers.SharedInformerFactory, node string, forwards func(*corev1.Service) bool, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	c := &Controller{
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, longestRetry)),
		node:  node, forwards: forwards, events: events, log: log, servers: map[string]*server{},
	}
	var err error
	c.followed, err = services.Follow(factory, c.queue.Add)
	return c, err
}

// Run works until ctx ends, and closes all ports then.
func (c *Controller) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, c.queue.ShutDown)
	defer stop()
	defer c.closeAll()
	if !cache.WaitForCacheSync(ctx.Done(), c.followed.HasSynced) {
		return nil
	}
	for {
		name, quit := c.queue.Get()
		if quit {
			return nil
		}
		if err := c.sync(ctx, name); err != nil && ctx.Err() == nil {
			c.log.Warn("health-check port", "service", name, "error", err)
			c.queue.AddRateLimited(name)
		} else {
			c.queue.Forget(name)
		}
		c.queue.Done(name)
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	svc := c.followed.Service(name)
	port, s := Port(svc), c.servers[name]
	if s != nil && s.port != port {
		s.close()
		delete(c.servers, name)
		s = nil
	}
	if port == 0 {
		return nil
	}
	if s == nil {
		s = &server{namespace: svc.Namespace, name: svc.Name, port: port}
	}
	s.healthy.Store(func() bool { return c.forwards(svc) })
	s.local.Store(int64(Count(c.followed.Slices(name), c.node)))
	if c.servers[name] != nil {
		return nil
	}
	if err := serve(ctx, s); err != nil {
		if c.events != nil {
			c.events.Event(svc, corev1.EventTypeWarning, ReasonNoPort, fmt.Sprintf("on node %s: %v; end the process that has the port", c.node, err))
		}
		return err
	}
	c.servers[name] = s
	return nil
}

func (c *Controller) closeAll() {
	for name, s := range c.servers {
		s.close()
		delete(c.servers, name)
	}
}
