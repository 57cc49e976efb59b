package loadbalancer

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"shoal/api/claims"
	"shoal/api/hosts"
)

const (
	// settle is how long something that looks wrong must last before it is
	// repaired: a claim without its service, an address that another service
	// claimed. What belongs together reaches a peer one by one.
	settle = 2 * time.Second
	// recheck is how long another peer has for what is its own to do.
	recheck = 5 * time.Second
	// writeTimeout bounds one write.
	writeTimeout = 10 * time.Second
	// countDelay gathers the changes of a pool's counts.
	countDelay = time.Second
)

// Options of a Controller.
type Options struct {
	// Self is this peer's node name.
	Self string
	// Members is what gossip knows of the others, nil on a host alone. Only
	// Alive is asked.
	Members hosts.Members
	Client  kubernetes.Interface
	// Objects reads and writes pools.
	Objects dynamic.Interface
	Claims  *claims.OwnedAddresses
	// Ranges are the cell's own, of pods and cluster IPs.
	Ranges []netip.Prefix
	// Warn makes an Event.
	Warn   func(ctx context.Context, about corev1.ObjectReference, reason, message string) error
	Logger *slog.Logger
}

// Controller gives services their addresses.
type Controller struct {
	o          Options
	services   cache.Indexer
	namespaces corelisters.NamespaceLister
	nodes      corelisters.NodeLister
	pools      *poolWatch
	// queue holds each key once, so no more than there are services and pools.
	queue workqueue.TypedRateLimitingInterface[key]

	mu    sync.Mutex
	ended map[types.UID]struct{} // services seen deleted that claims name; guarded by mu

	// Only the goroutine of Run uses these.
	waiting   map[string]struct{}   // services without what they should have
	orphans   map[netip.Addr]orphan // claims of no service
	displaced map[string]time.Time  // services whose address another claimed
}

// orphan is who claimed an address, and since when that service is not seen.
type orphan struct {
	owner string
	since time.Time
}

// key is what there is to look at: a service, or a pool's counts, or (with no
// name) every service that waits.
type key struct{ service, pool string }

// byType indexes the services of type LoadBalancer; byAddress those that have
// an address in their status.
const (
	byType    = "shoal-load-balancer"
	byAddress = "shoal-load-balancer-address"
)

// New registers with the informers of services, namespaces and nodes, which must
// not have started yet.
func New(o Options, shared informers.SharedInformerFactory) (*Controller, error) {
	services, namespaces := shared.Core().V1().Services(), shared.Core().V1().Namespaces()
	c := &Controller{
		o: o, services: services.Informer().GetIndexer(), namespaces: namespaces.Lister(), nodes: shared.Core().V1().Nodes().Lister(),
		queue:   workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[key]()),
		ended:   map[types.UID]struct{}{},
		waiting: map[string]struct{}{}, orphans: map[netip.Addr]orphan{}, displaced: map[string]time.Time{},
	}
	c.pools = newPoolWatch(o.Objects, c.poolsChanged)
	if err := services.Informer().AddIndexers(indexers); err != nil {
		return nil, fmt.Errorf("index services of type LoadBalancer: %w", err)
	}
	if _, err := services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: c.serviceChanged, UpdateFunc: func(old, obj any) { c.serviceUpdated(old, obj) }, DeleteFunc: c.serviceDeleted,
	}); err != nil {
		return nil, fmt.Errorf("follow services: %w", err)
	}
	if _, err := shared.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { c.nodeUpdated(nil, obj) }, UpdateFunc: c.nodeUpdated, DeleteFunc: func(any) { c.countPools() },
	}); err != nil {
		return nil, fmt.Errorf("follow nodes: %w", err)
	}
	_, err := namespaces.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: c.namespaceUpdated, AddFunc: func(obj any) { c.namespaceUpdated(nil, obj) }})
	if err != nil {
		return nil, fmt.Errorf("follow namespaces: %w", err)
	}
	return c, nil
}

var indexers = cache.Indexers{
	byShared: sharedIndex,
	byType: func(obj any) ([]string, error) {
		if s, ok := obj.(*corev1.Service); ok && s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			return []string{s.Namespace}, nil
		}
		return nil, nil
	},
	byAddress: func(obj any) ([]string, error) {
		var all []string
		if s, ok := obj.(*corev1.Service); ok {
			for _, a := range addressesOf(s) {
				all = append(all, a.String())
			}
		}
		return all, nil
	},
}

// addressesOf are the addresses in a service's status.
func addressesOf(s *corev1.Service) []netip.Addr {
	var all []netip.Addr
	for _, in := range s.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			all = append(all, a.Unmap())
		}
	}
	return all
}

func serviceKey(s *corev1.Service) string { return s.Namespace + "/" + s.Name }

// owner is how a service stands in a claim.
func owner(s *corev1.Service) string { return serviceKey(s) + " " + string(s.UID) }

// nameOf is the NAMESPACE/NAME of an owner.
func nameOf(owner string) string {
	name, _, _ := strings.Cut(owner, " ")
	return name
}

func uidOf(owner string) types.UID {
	_, uid, _ := strings.Cut(owner, " ")
	return types.UID(uid)
}

func (c *Controller) serviceChanged(obj any) {
	if s, ok := obj.(*corev1.Service); ok && (s.Spec.Type == corev1.ServiceTypeLoadBalancer || hasCondition(s)) {
		c.queue.Add(key{service: serviceKey(s)})
		c.lookAtSharers(s)
	}
}

func (c *Controller) serviceUpdated(old, obj any) {
	before, ok := old.(*corev1.Service)
	after, _ := obj.(*corev1.Service)
	if ok && before.Spec.Type == corev1.ServiceTypeLoadBalancer {
		if after != nil && before.UID != after.UID {
			c.serviceDeleted(before)
		}
		c.queue.Add(key{service: serviceKey(before)})
		c.lookAtSharers(before)
	}
	c.serviceChanged(obj)
}

func (c *Controller) serviceDeleted(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	s, ok := obj.(*corev1.Service)
	if !ok || s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	for _, claim := range c.o.Claims.All() {
		if claim.Owner == owner(s) {
			c.mu.Lock()
			c.ended[s.UID] = struct{}{}
			c.mu.Unlock()
			break
		}
	}
	c.queue.Add(key{service: serviceKey(s)})
	c.lookAtSharers(s)
}

// forget drops what is remembered about claims that are gone, by whomever they
// were freed.
func (c *Controller) forget(all map[netip.Addr]claims.Claim) {
	for a, was := range c.orphans {
		if claim, held := all[a]; !held || claim.Owner != was.owner {
			delete(c.orphans, a)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ended) == 0 {
		return
	}
	named := map[types.UID]struct{}{}
	for _, claim := range all {
		named[uidOf(claim.Owner)] = struct{}{}
	}
	maps.DeleteFunc(c.ended, func(uid types.UID, _ struct{}) bool {
		_, is := named[uid]
		return !is
	})
}

func (c *Controller) namespaceUpdated(old, obj any) {
	after, ok := obj.(*corev1.Namespace)
	if !ok {
		return
	}
	if before, ok := old.(*corev1.Namespace); ok && maps.Equal(before.Labels, after.Labels) {
		return
	}
	objs, err := c.services.ByIndex(byType, after.Name)
	if err != nil {
		return // there is that index
	}
	for _, s := range objs {
		c.serviceChanged(s)
	}
}

// poolsChanged looks at every service of the type, and at the pool's counts.
func (c *Controller) poolsChanged(name string) {
	for _, namespace := range c.services.ListIndexFuncValues(byType) {
		objs, _ := c.services.ByIndex(byType, namespace)
		for _, s := range objs {
			c.serviceChanged(s)
		}
	}
	c.queue.Add(key{pool: name})
}

// claimChanged looks at whoever an address concerns: who claimed it, who has
// it, and, as it may be free now, who waits for one.
func (c *Controller) claimChanged(a netip.Addr) {
	defer c.countPools()
	if !a.IsValid() {
		for _, claim := range c.o.Claims.All() {
			c.queue.Add(key{service: nameOf(claim.Owner)})
		}
		return
	}
	claim, held := c.o.Claims.Claim(a)
	if held && claim.Owner != "" {
		c.queue.Add(key{service: nameOf(claim.Owner)})
	}
	objs, _ := c.services.ByIndex(byAddress, a.String())
	for _, s := range objs {
		c.serviceChanged(s)
	}
	for _, s := range c.sharers(a) {
		c.serviceChanged(s)
	}
	if !held {
		c.queue.Add(key{})
	}
}

func (c *Controller) countPools() {
	for _, p := range c.pools.all() {
		c.queue.AddAfter(key{pool: p.Name}, countDelay)
	}
}

// Run works until ctx ends. Services must have been heard of by then.
func (c *Controller) Run(ctx context.Context) {
	stop := context.AfterFunc(ctx, c.queue.ShutDown)
	defer stop()
	var children sync.WaitGroup
	defer children.Wait()
	children.Go(func() {
		if err := c.o.Claims.Run(ctx, c.claimChanged); err != nil && ctx.Err() == nil {
			c.o.Logger.Error("claims of load-balancer addresses by other peers are not heard of", "error", err)
		}
	})
	children.Go(func() { c.pools.run(ctx) })
	if !c.pools.await(ctx) {
		return
	}
	for {
		k, quit := c.queue.Get()
		if quit {
			return
		}
		if err := c.look(ctx, k); err != nil && ctx.Err() == nil {
			c.o.Logger.Warn("load-balancer addresses, will retry", "service", k.service, "pool", k.pool, "error", err)
			c.queue.AddRateLimited(k)
		} else {
			c.queue.Forget(k)
		}
		c.queue.Done(k)
	}
}

func (c *Controller) look(ctx context.Context, k key) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	switch {
	case k.pool != "":
		return c.count(ctx, k.pool)
	case k.service != "":
		return c.sync(ctx, k.service)
	}
	c.forget(c.o.Claims.All())
	for name := range c.waiting {
		c.queue.Add(key{service: name})
	}
	return nil
}

// chosen reports whether this peer acts for a service or pool. If not, it looks
// again after a while: the peer that is to act may have died.
func (c *Controller) chosen(k key) bool {
	alive := map[string]bool{c.o.Self: true}
	if c.o.Members != nil {
		alive = c.o.Members.Alive()
	}
	if hosts.Chosen(c.o.Self, alive, "load balancer "+k.service+k.pool) {
		return true
	}
	c.queue.AddAfter(k, recheck)
	return false
}

// service is nil when there is none of that name.
func (c *Controller) service(name string) *corev1.Service {
	obj, ok, err := c.services.GetByKey(name)
	if err != nil || !ok {
		return nil
	}
	s, _ := obj.(*corev1.Service)
	return s
}

// sync sees to one service: what it has, and what is claimed in its name.
func (c *Controller) sync(ctx context.Context, name string) error {
	svc := c.service(name)
	all := c.o.Claims.All()
	c.forget(all)
	var held, stale []netip.Addr
	for a, claim := range all {
		if nameOf(claim.Owner) != name {
			continue
		}
		if svc != nil && isOurs(svc) && claim.Owner == owner(svc) {
			held = append(held, a)
			delete(c.orphans, a)
		} else {
			stale = append(stale, a)
		}
	}
	slices.SortFunc(held, netip.Addr.Compare)
	if err := c.release(name, stale); err != nil {
		return err
	}
	if svc == nil {
		delete(c.waiting, name)
		delete(c.displaced, name)
		return nil
	}
	if !isOurs(svc) {
		delete(c.waiting, name)
		delete(c.displaced, name)
		return c.withdraw(ctx, svc, stale)
	}
	if svc.DeletionTimestamp != nil && len(held) == 0 && len(addressesOf(svc)) == 0 {
		delete(c.waiting, name)
		return nil
	}
	return c.assign(ctx, svc, held)
}

// release frees claims of a service that is gone, or of another type now: at
// once if it was seen going, else when that has lasted.
func (c *Controller) release(name string, stale []netip.Addr) error {
	for _, a := range stale {
		claim, held := c.o.Claims.Claim(a)
		if !held {
			delete(c.orphans, a)
			continue
		}
		seen, known := c.orphans[a]
		if !known || seen.owner != claim.Owner {
			seen = orphan{claim.Owner, time.Now()}
			c.orphans[a] = seen
		}
		c.mu.Lock()
		_, ended := c.ended[uidOf(claim.Owner)]
		c.mu.Unlock()
		if left := settle - time.Since(seen.since); !ended && left > 0 {
			c.queue.AddAfter(key{service: name}, left)
			continue
		}
		if !c.chosen(key{service: name}) {
			continue
		}
		if err := c.free(a); err != nil {
			return err
		}
		delete(c.orphans, a)
		c.o.Logger.Info("a load-balancer address is free again", "address", a, "service", name)
		c.queue.Add(key{})
		c.countPools()
	}
	return nil
}
