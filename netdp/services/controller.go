package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"shoal/netdp"
)

// Datapath is what the Controller writes to.
type Datapath interface {
	SetService(netdp.Service) error
	DeleteService(key string) error
	SyncComplete() error
}

// Controller follows Services and EndpointSlices.
type Controller struct {
	dp       Datapath
	factory  informers.SharedInformerFactory
	services corelisters.ServiceLister
	slices   cache.Indexer
	handlers []cache.ResourceEventHandlerRegistration
	queue    workqueue.TypedRateLimitingInterface[string]
	node     string
	own      []Own
	log      *slog.Logger

	// Only the goroutine of Run uses these.
	keys    map[string]map[string]struct{} // service → its keys in the datapath
	waiting map[string]struct{}            // services whose address another one holds
}

// ByService is the index of slices by the namespace/name of their service.
const ByService = "shoal-service"

// Own replaces the endpoints of a service that has no selector: this host
// answers it itself.
type Own struct {
	Service string // namespace/name
	// Backend is where, the same for every port.
	Backend netip.AddrPort
}

// IndexSlices gives the informer of slices the index ByService, for all who
// use it.
func IndexSlices(slices cache.SharedIndexInformer) error {
	if _, ok := slices.GetIndexer().GetIndexers()[ByService]; ok {
		return nil
	}
	if err := slices.AddIndexers(cache.Indexers{ByService: sliceService}); err != nil {
		return fmt.Errorf("index endpoint slices: %w", err)
	}
	return nil
}

// New registers the informers it needs with the factory; Run starts them. own
// are the services that this host answers by itself.
func New(dp Datapath, factory informers.SharedInformerFactory, nodeName string, logger *slog.Logger, own ...Own) *Controller {
	svcs := factory.Core().V1().Services()
	slices := factory.Discovery().V1().EndpointSlices().Informer()
	c := &Controller{
		dp:       dp,
		factory:  factory,
		services: svcs.Lister(),
		slices:   slices.GetIndexer(),
		queue:    workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
		node:     nodeName,
		own:      own,
		log:      logger.With("node", nodeName),
		keys:     map[string]map[string]struct{}{},
		waiting:  map[string]struct{}{},
	}
	if err := IndexSlices(slices); err != nil {
		c.log.Error("follow endpoint slices", "error", err) // only after the informer was stopped
	}
	c.follow(svcs.Informer(), cache.MetaNamespaceKeyFunc)
	c.follow(slices, func(obj any) (string, error) {
		keys, err := sliceService(obj)
		if err != nil || len(keys) == 0 {
			return "", err
		}
		return keys[0], nil
	})
	return c
}

// sliceService is the index function: the service a slice belongs to.
func sliceService(obj any) ([]string, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, fmt.Errorf("index %T: it is no EndpointSlice", obj)
	}
	name := s.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		return nil, nil
	}
	return []string{s.Namespace + "/" + name}, nil
}

func (c *Controller) follow(informer cache.SharedIndexInformer, keyOf func(any) (string, error)) {
	enqueue := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if key, err := keyOf(obj); err == nil && key != "" {
			c.queue.Add(key)
		}
	}
	reg, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: enqueue,
		UpdateFunc: func(old, obj any) {
			enqueue(old) // a slice may have changed its service
			enqueue(obj)
		},
		DeleteFunc: enqueue,
	})
	if err != nil {
		c.log.Error("follow objects", "error", err) // only after the informer was stopped
		return
	}
	c.handlers = append(c.handlers, reg)
}

// Run works until ctx ends. The kernel keeps forwarding after it has returned.
func (c *Controller) Run(ctx context.Context) error {
	c.factory.Start(ctx.Done())
	stop := context.AfterFunc(ctx, c.queue.ShutDown)
	defer stop()
	defer c.queue.ShutDown()
	for _, h := range c.handlers {
		if !cache.WaitForCacheSync(ctx.Done(), h.HasSynced) {
			return nil
		}
	}
	if err := c.syncAll(); err != nil {
		return err
	}
	for {
		key, quit := c.queue.Get()
		if quit {
			return nil
		}
		c.work(key)
	}
}

// syncAll sets every service once, and only then lets go of older entries.
func (c *Controller) syncAll() error {
	for _, svc := range c.listKeys() {
		if err := c.sync(svc); err != nil {
			c.queue.AddRateLimited(svc)
			c.log.Warn("set service", "service", svc, "error", err)
		}
	}
	if err := c.dp.SyncComplete(); err != nil {
		return fmt.Errorf("complete first sync of services: %w", err)
	}
	return nil
}

func (c *Controller) listKeys() []string {
	return c.factory.Core().V1().Services().Informer().GetStore().ListKeys()
}

func (c *Controller) work(key string) {
	defer c.queue.Done(key)
	err := c.sync(key)
	if err == nil {
		c.queue.Forget(key)
		return
	}
	var taken *netdp.FrontendTakenError
	if errors.As(err, &taken) {
		c.waiting[key] = struct{}{}
	}
	c.queue.AddRateLimited(key)
	c.log.Warn("set service", "service", key, "error", err)
}

// sync makes the datapath's entries for one service what they should be.
func (c *Controller) sync(key string) error {
	delete(c.waiting, key)
	want, err := c.translate(key)
	if err != nil {
		return err
	}
	keys := map[string]struct{}{}
	for _, s := range want {
		keys[s.Key] = struct{}{}
	}
	if err := c.drop(key, keys); err != nil {
		return err
	}
	var errs []error
	for _, s := range want {
		c.remember(key, s.Key)
		errs = append(errs, c.dp.SetService(s))
	}
	return errors.Join(errs...)
}

func (c *Controller) remember(key, entry string) {
	if c.keys[key] == nil {
		c.keys[key] = map[string]struct{}{}
	}
	c.keys[key][entry] = struct{}{}
}

// drop removes entries that a service no longer has, and lets those try again
// that wait for an address.
func (c *Controller) drop(key string, keep map[string]struct{}) error {
	dropped := false
	for entry := range c.keys[key] {
		if _, ok := keep[entry]; ok {
			continue
		}
		if err := c.dp.DeleteService(entry); err != nil {
			return err
		}
		delete(c.keys[key], entry)
		dropped = true
	}
	if len(c.keys[key]) == 0 {
		delete(c.keys, key)
	}
	if dropped {
		for other := range c.waiting {
			c.queue.Add(other)
		}
	}
	return nil
}

func (c *Controller) translate(key string) ([]netdp.Service, error) {
	svc, err := c.service(key)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	objs, err := c.slices.ByIndex(ByService, key)
	if err != nil {
		return nil, fmt.Errorf("find endpoint slices of %s: %w", key, err)
	}
	slices := make([]*discoveryv1.EndpointSlice, 0, len(objs))
	for _, obj := range objs {
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
			slices = append(slices, s)
		}
	}
	out := Translate(svc, slices, c.node)
	for _, own := range c.own {
		if own.Service == key && len(svc.Spec.Selector) == 0 {
			answerOurselves(out, own.Backend)
		}
	}
	return out, nil
}

// answerOurselves has this host alone answer its own callers, and nobody those
// from outside.
func answerOurselves(services []netdp.Service, backend netip.AddrPort) {
	for i := range services {
		services[i].Backends = []netdp.Backend{{Addr: backend, Callers: netdp.OnlyInside}}
		services[i].LocalOutside = true
	}
}

func (c *Controller) service(key string) (*corev1.Service, error) {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil, fmt.Errorf("read service key: %w", err)
	}
	return c.services.Services(namespace).Get(name)
}
