package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"shoal/netdp"
)

// Datapath is what the Controller writes to.
type Datapath interface {
	SetService(netdp.Service) error
	DeleteService(key string) error
	SyncComplete() error
	// PortsInUse are the frontends that are new and that a process of the host
	// listens on.
	PortsInUse(netdp.Service) []netdp.Frontend
	// NodeIPs are the addresses of this host.
	NodeIPs() []netip.Addr
}

// Options of a Controller.
type Options struct {
	Datapath  Datapath
	Informers informers.SharedInformerFactory
	// Node is the name of this host's Node.
	Node string
	// Members say which hosts have failed; nil: none ever does.
	Members Members
	// Events takes what users should know of their services and pods; nil: only
	// the log does.
	Events record.EventRecorder
	// Own are the services that this host answers by itself.
	Own []Own
	// Reserved are ports of hosts that no service gets.
	Reserved []Reserved
	Logger   *slog.Logger
}

// Controller follows Services, EndpointSlices, Nodes, and pods of this host that
// have hostPorts.
type Controller struct {
	o        Options
	dp       Datapath
	services corelisters.ServiceLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	slices   cache.Indexer
	handlers []cache.ResourceEventHandlerRegistration
	queue    workqueue.TypedRateLimitingInterface[string]
	live     *liveness
	look     chan struct{} // of size 1: Nodes have changed
	log      *slog.Logger

	mu    sync.Mutex
	zone  string // of this host; guarded by mu
	hosts hosts  // of the cell; guarded by mu

	own []netip.Addr // this host's addresses; only lookAtHosts uses them

	// Only the goroutine of Run uses these.
	keys    map[string]map[string]struct{} // service or pod → its keys in the datapath
	waiting map[string]struct{}            // those whose address another one holds
	told    map[string]string              // what the last Event about each said
	full    map[string]struct{}            // those that a full kernel map keeps out
	refused map[string]string              // what the last Event about reserved ports of each said
}

// fullRetry is how soon something is tried again that a full map kept out: room
// comes when others shrink, of which nobody is told.
const fullRetry = 5 * time.Second

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

// New registers the informers it needs with the factory; Run starts them.
func New(o Options) *Controller {
	core := o.Informers.Core().V1()
	slices := o.Informers.Discovery().V1().EndpointSlices().Informer()
	c := &Controller{
		o:        o,
		dp:       o.Datapath,
		services: core.Services().Lister(),
		pods:     core.Pods().Lister(),
		nodes:    core.Nodes().Lister(),
		slices:   slices.GetIndexer(),
		queue:    workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
		live:     newLiveness(),
		look:     make(chan struct{}, 1),
		log:      o.Logger.With("node", o.Node),
		keys:     map[string]map[string]struct{}{},
		waiting:  map[string]struct{}{},
		told:     map[string]string{},
		full:     map[string]struct{}{},
		refused:  map[string]string{},
	}
	if err := IndexSlices(slices); err != nil {
		c.log.Error("follow endpoint slices", "error", err) // only after the informer was stopped
	}
	c.follow(core.Services().Informer(), c.enqueue(cache.MetaNamespaceKeyFunc))
	c.follow(slices, c.enqueue(func(obj any) (string, error) {
		keys, err := sliceService(obj)
		if err != nil || len(keys) == 0 {
			return "", err
		}
		return keys[0], nil
	}))
	c.follow(core.Pods().Informer(), c.enqueue(c.podKey))
	c.follow(core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { c.lookAgain() },
		UpdateFunc: func(old, obj any) {
			if nodeMatters(old, obj) {
				c.lookAgain()
			}
		},
		DeleteFunc: func(any) { c.lookAgain() },
	})
	return c
}

// podPrefix begins the keys of pods in the queue; no namespace has a space.
const podPrefix = "pod "

// podKey is empty for pods that have no hostPort here.
func (c *Controller) podKey(obj any) (string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName != c.o.Node || !wantsHostPorts(pod) {
		return "", nil
	}
	return podPrefix + pod.Namespace + "/" + pod.Name, nil
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

// enqueue is a handler that has the keys of objects worked on.
func (c *Controller) enqueue(keyOf func(any) (string, error)) cache.ResourceEventHandler {
	changed := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if key, err := keyOf(obj); err == nil && key != "" {
			c.queue.Add(key)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: changed,
		UpdateFunc: func(old, obj any) {
			changed(old) // a slice may have changed its service
			changed(obj)
		},
		DeleteFunc: changed,
	}
}

func (c *Controller) follow(informer cache.SharedIndexInformer, handler cache.ResourceEventHandler) {
	reg, err := informer.AddEventHandler(handler)
	if err != nil {
		c.log.Error("follow objects", "error", err) // only after the informer was stopped
		return
	}
	c.handlers = append(c.handlers, reg)
}

// Run works until ctx ends. The kernel keeps forwarding after it has returned.
func (c *Controller) Run(ctx context.Context) error {
	c.o.Informers.Start(ctx.Done())
	stop := context.AfterFunc(ctx, c.queue.ShutDown)
	defer stop()
	defer c.queue.ShutDown()
	for _, h := range c.handlers {
		if !cache.WaitForCacheSync(ctx.Done(), h.HasSynced) {
			return nil
		}
	}
	c.lookAtHosts() // what it has done anew is done below in any case
	if err := c.syncAll(); err != nil {
		return err
	}
	var watching sync.WaitGroup
	watching.Go(func() { c.watchHosts(ctx) })
	defer watching.Wait()
	for {
		key, quit := c.queue.Get()
		if quit {
			return nil
		}
		c.work(key)
	}
}

// syncAll sets everything once, and only then lets go of older entries.
func (c *Controller) syncAll() error {
	for _, key := range c.listKeys() {
		if err := c.sync(key); err != nil {
			c.failed(key, err)
		}
	}
	if err := c.dp.SyncComplete(); err != nil {
		return fmt.Errorf("complete first sync of services: %w", err)
	}
	return nil
}

func (c *Controller) listKeys() []string {
	keys := c.o.Informers.Core().V1().Services().Informer().GetStore().ListKeys()
	for _, obj := range c.o.Informers.Core().V1().Pods().Informer().GetStore().List() {
		if key, err := c.podKey(obj); err == nil && key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

func (c *Controller) work(key string) {
	defer c.queue.Done(key)
	err := c.sync(key)
	if err == nil {
		c.queue.Forget(key)
		c.tellRoom(key)
		return
	}
	c.failed(key, err)
}

// failed has it tried again, and tells why when people should know.
func (c *Controller) failed(key string, err error) {
	var taken *netdp.FrontendTakenError
	if errors.As(err, &taken) {
		c.waiting[key] = struct{}{}
	}
	if errors.Is(err, netdp.ErrFull) {
		c.queue.AddAfter(key, fullRetry)
		if _, known := c.full[key]; known {
			return // it was told
		}
	} else {
		c.queue.AddRateLimited(key)
	}
	c.tell(key, err)
}

// sync makes the datapath's entries for one service what they should be.
func (c *Controller) sync(key string) error {
	delete(c.waiting, key)
	want, refused, err := c.wants(key)
	if err != nil {
		return err
	}
	c.tellRefused(key, refused)
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
		taken := c.dp.PortsInUse(s)
		err := c.dp.SetService(s)
		if err == nil && len(taken) > 0 {
			c.tellInUse(key, s, taken)
		}
		errs = append(errs, err)
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
		delete(c.told, key)
		delete(c.full, key)
	}
	if dropped {
		for other := range c.waiting {
			c.queue.Add(other)
		}
	}
	return nil
}

// wants is what the datapath should forward of a service or pod, and what of it is
// refused.
func (c *Controller) wants(key string) (want []netdp.Service, refused []string, err error) {
	all, err := c.translate(key)
	if err != nil {
		return nil, nil, err
	}
	want, refused = guard(all, c.o.Reserved, c.cellHosts())
	return want, refused, nil
}

func (c *Controller) translate(key string) ([]netdp.Service, error) {
	if name, ok := strings.CutPrefix(key, podPrefix); ok {
		pod, err := c.pod(name)
		if err != nil || pod == nil || pod.Spec.NodeName != c.o.Node {
			return nil, err
		}
		return HostPorts(pod, c.dp.NodeIPs()), nil
	}
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
	out := Translate(svc, slices, c.place())
	for _, own := range c.o.Own {
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

// pod is nil when there is none.
func (c *Controller) pod(name string) (*corev1.Pod, error) {
	namespace, name, err := cache.SplitMetaNamespaceKey(name)
	if err != nil {
		return nil, fmt.Errorf("read pod key: %w", err)
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return pod, err
}

func (c *Controller) service(key string) (*corev1.Service, error) {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil, fmt.Errorf("read service key: %w", err)
	}
	return c.services.Services(namespace).Get(name)
}
