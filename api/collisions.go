package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	core "k8s.io/kubernetes/pkg/apis/core"

	"shoal/api/claims"
	"shoal/api/hosts"
	apistorage "shoal/api/storage"
)

const (
	// collisionSettle is how long a collision must last before it is repaired.
	// After a split heals, services and claims arrive one by one, and only
	// with the claim is it known who keeps the number.
	collisionSettle = 2 * time.Second
	// renumberTimeout bounds the repair of one service.
	renumberTimeout = 10 * time.Second
)

// byNumber indexes services by the numbers they hold, as heldNumber names them.
const byNumber = "shoal-number"

// heldNumber is a cluster IP or a node port, by its number in its range.
type heldNumber struct {
	kind numberKind
	n    int
}

func (h heldNumber) String() string {
	return map[numberKind]string{clusterIPv4: "ip/", clusterIPv6: "ip6/", nodePort: "port/"}[h.kind] + strconv.Itoa(h.n)
}

// collisions finds services that hold the same cluster IP or node port, as two
// sides of a split may have given out, and gives all but one of them another:
// the service whose claim was born earlier keeps the number. It also writes
// into claims whose they are, which is how that is known.
//
// The immutable clusterIP is changed in the storage, below the API's
// validation; watches see it as any other change.
type collisions struct {
	*ledgers
	self     string
	members  hosts.Members // nil on a host alone
	client   kubernetes.Interface
	storages *apistorage.Set
	log      *slog.Logger

	services cache.SharedIndexInformer
	// queue holds each number once, so no more than the ranges have.
	queue workqueue.TypedRateLimitingInterface[heldNumber]
	// since is when run met the collisions there are; only run uses it.
	since map[heldNumber]time.Time
}

// follow registers with the informer; it must not have started yet.
func (c *collisions) follow(services cache.SharedIndexInformer) error {
	c.services, c.since = services, map[heldNumber]time.Time{}
	c.queue = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[heldNumber]())
	err := services.AddIndexers(cache.Indexers{byNumber: func(obj any) ([]string, error) {
		var held []string
		for _, h := range c.numbers(obj) {
			held = append(held, h.String())
		}
		return held, nil
	}})
	if err != nil {
		return fmt.Errorf("index services by number: %w", err)
	}
	enqueue := func(obj any) {
		for _, h := range c.numbers(obj) {
			c.queue.Add(h)
		}
	}
	_, err = services.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: enqueue, UpdateFunc: func(_, obj any) { enqueue(obj) },
	})
	return err
}

func (c *collisions) numbers(obj any) []heldNumber {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return nil
	}
	var held []heldNumber
	for n := range ipsOf(s, c.addresses) {
		held = append(held, heldNumber{clusterIPv4, n})
	}
	for n := range ipsOf(s, c.addresses6) {
		held = append(held, heldNumber{clusterIPv6, n})
	}
	for n := range portsOf(s) {
		held = append(held, heldNumber{nodePort, n})
	}
	return held
}

// claimChanged looks at a number again after its claim changed.
func (c *collisions) claimChanged(kind numberKind) func(n int) {
	return func(n int) {
		if n >= 0 {
			c.queue.Add(heldNumber{kind, n})
		}
	}
}

// run works until ctx ends.
func (c *collisions) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, c.queue.ShutDown)
	defer stop()
	for {
		held, quit := c.queue.Get()
		if quit {
			return
		}
		if err := c.look(ctx, held); err != nil {
			c.log.Warn("repair of a service number, will retry", "number", c.describe(held), "error", err)
			c.queue.AddRateLimited(held)
		} else {
			c.queue.Forget(held)
		}
		c.queue.Done(held)
	}
}

func (c *collisions) ledger(held heldNumber) *claims.Ledger {
	switch held.kind {
	case nodePort:
		return c.ports
	case clusterIPv6:
		return c.ips6
	}
	return c.ips
}

// in is the range that a cluster IP is of.
func (c *collisions) in(held heldNumber) *claims.Addresses {
	if held.kind == clusterIPv6 {
		return c.addresses6
	}
	return c.addresses
}

func (c *collisions) describe(held heldNumber) string {
	if held.kind == nodePort {
		return fmt.Sprintf("node port %d", NodePortRange.Base+held.n)
	}
	return "cluster IP " + c.in(held).Address(held.n).String()
}

// owner is how a service stands in a claim.
func owner(s *corev1.Service) string { return s.Namespace + "/" + s.Name + " " + string(s.UID) }

// look sees to one number.
func (c *collisions) look(ctx context.Context, held heldNumber) error {
	objs, err := c.services.GetIndexer().ByIndex(byNumber, held.String())
	if err != nil || len(objs) == 0 {
		delete(c.since, held)
		return err
	}
	var holders []*corev1.Service
	for _, obj := range objs {
		if s, ok := obj.(*corev1.Service); ok {
			holders = append(holders, s)
		}
	}
	claim, claimed := c.ledger(held).Claim(held.n)
	if len(holders) > 1 {
		if since, ok := c.since[held]; !ok || time.Since(since) < collisionSettle {
			if !ok {
				c.since[held] = time.Now()
			}
			c.queue.AddAfter(held, collisionSettle)
			return nil
		}
	}
	if len(holders) == 1 {
		delete(c.since, held)
		// The peer that made the claim knows it is for the service it wrote.
		if claimed && claim.Holder == c.self {
			return c.ledger(held).Bind(held.n, owner(holders[0]))
		}
		return nil
	}
	rank(holders, claim)
	return c.repair(ctx, held, holders)
}

// rank puts the service that keeps the number first: the one the surviving
// claim names. Where it names none of them, the oldest.
func rank(holders []*corev1.Service, claim claims.Claim) {
	slices.SortFunc(holders, func(a, b *corev1.Service) int {
		if named := owner(a) == claim.Owner; named != (owner(b) == claim.Owner) {
			if named {
				return -1
			}
			return 1
		}
		return cmp.Or(
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.UID, b.UID),
		)
	})
}

// collisionRecheck is how long another peer has for a repair that is its own.
const collisionRecheck = 15 * time.Second

// repair gives all holders but the first another number.
func (c *collisions) repair(ctx context.Context, held heldNumber, holders []*corev1.Service) error {
	alive := map[string]bool{c.self: true}
	if c.members != nil {
		alive = c.members.Alive()
	}
	c.queue.AddAfter(held, collisionRecheck)
	var errs []error
	for _, loser := range holders[1:] {
		if hosts.Chosen(c.self, alive, string(loser.UID)) {
			errs = append(errs, c.renumber(ctx, held, loser, holders[0]))
		}
	}
	return errors.Join(errs...)
}

// errMoved says that the service holds the number no more.
var errMoved = errors.New("the service has another number by now")

// renumber gives loser another number than the one winner keeps. The old one's
// claim is the winner's and stays.
func (c *collisions) renumber(ctx context.Context, held heldNumber, loser, winner *corev1.Service) error {
	ctx, cancel := context.WithTimeout(ctx, renumberTimeout)
	defer cancel()
	ledger := c.ledger(held)
	n, err := ledger.TakeNext()
	if err != nil {
		return fmt.Errorf("renumber service %s/%s: %w", loser.Namespace, loser.Name, err)
	}
	fresh := heldNumber{held.kind, n}
	err = c.rewrite(ctx, loser, func(s *core.Service) bool { return c.swap(s, held, fresh) })
	if err != nil {
		err = errors.Join(err, ledger.Free(n))
		if errors.Is(err, errMoved) || storage.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("renumber service %s/%s: %w", loser.Namespace, loser.Name, err)
	}
	reason := "ClusterIPReallocated"
	if held.kind == nodePort {
		reason = "NodePortReallocated"
	}
	message := fmt.Sprintf("%s was given to two services while parts of the cell could not see each other; %s/%s claimed it first and keeps it, this service now has %s",
		c.describe(held), winner.Namespace, winner.Name, c.describe(fresh))
	c.log.Warn("two services held one number", "service", loser.Namespace+"/"+loser.Name, "keeps", winner.Namespace+"/"+winner.Name, "was", c.describe(held), "now", c.describe(fresh))
	return postEvent(ctx, c.client, corev1.ObjectReference{
		APIVersion: "v1", Kind: "Service", Namespace: loser.Namespace, Name: loser.Name, UID: loser.UID,
	}, reason, message)
}

// rewrite changes a service in the storage; change reports whether it did.
func (c *collisions) rewrite(ctx context.Context, s *corev1.Service, change func(*core.Service) bool) error {
	services := c.storages.Get(schema.GroupResource{Resource: "services"})
	if services == nil {
		return errors.New("services are not served")
	}
	return services.Rewrite(ctx, s.Namespace, s.Name, &core.Service{}, &storage.Preconditions{UID: &s.UID},
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			service, ok := obj.(*core.Service)
			if !ok || !change(service) {
				return nil, errMoved
			}
			return service, nil
		}))
}

// swap puts the fresh number where s has the old one.
func (c *collisions) swap(s *core.Service, old, fresh heldNumber) bool {
	changed := false
	if old.kind == nodePort {
		was, now := int32(NodePortRange.Base+old.n), int32(NodePortRange.Base+fresh.n)
		for i := range s.Spec.Ports {
			if p := &s.Spec.Ports[i]; p.NodePort == was {
				p.NodePort, changed = now, true
			}
		}
		if s.Spec.HealthCheckNodePort == was {
			s.Spec.HealthCheckNodePort, changed = now, true
		}
		return changed
	}
	for i, ip := range s.Spec.ClusterIPs {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			continue
		}
		if n, ok := c.in(old).Number(addr); ok && n == old.n {
			s.Spec.ClusterIPs[i], changed = c.in(old).Address(fresh.n).String(), true
		}
	}
	if changed && len(s.Spec.ClusterIPs) > 0 {
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	return changed
}
