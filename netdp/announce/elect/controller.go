package elect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"shoal/api/loadbalancer/v1alpha1"
	"shoal/netdp/services"
)

const (
	// refresh bounds how long an interface that came anew, or a condition that
	// somebody else wrote, stays unnoticed.
	refresh = 30 * time.Second
	// retry is how soon something that failed is done again.
	retry = 2 * time.Second
	// stableFor is how long a host must have been alive to take over from
	// another one that lives: one that has just come back still starts, and one
	// that comes and goes would break connections each time.
	stableFor = 15 * time.Second
	// writeTimeout bounds one write.
	writeTimeout = 5 * time.Second
)

// Responder answers on the link.
type Responder interface {
	Set(interfaces []string, addresses []netip.Addr, renew bool) error
	Close()
}

// Options of a Controller.
type Options struct {
	// Self is this host's node name.
	Self string
	// Alive returns the hosts believed alive, this one among them.
	Alive func() []string
	// Changed has an element whenever Alive may say something else.
	Changed <-chan struct{}
	// Interfaces are those to other machines.
	Interfaces func() []string
	Responder  Responder
	Client     kubernetes.Interface
	Logger     *slog.Logger
}

// Controller announces what this host is elected for.
type Controller struct {
	o        Options
	services *services.Followed
	nodes    corelisters.NodeLister
	synced   cache.InformerSynced // of nodes
	wake     chan struct{}        // one token: dirty is not empty

	mu    sync.Mutex
	dirty map[string]struct{} // services to look at; "" is all; guarded by mu

	// Only the goroutine of Run uses these.
	elected map[string][]netip.Addr // by service
	since   map[string]time.Time    // since when a host has been alive
}

// New registers the informers it needs with the factory.
func New(o Options, factory informers.SharedInformerFactory) (*Controller, error) {
	nodes := factory.Core().V1().Nodes()
	c := &Controller{
		o: o, nodes: nodes.Lister(),
		wake: make(chan struct{}, 1), dirty: map[string]struct{}{}, elected: map[string][]netip.Addr{}, since: map[string]time.Time{},
	}
	var err error
	if c.services, err = services.Follow(factory, c.look); err != nil {
		return nil, err
	}
	h, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: c.nodeAdded, UpdateFunc: c.nodeUpdated, DeleteFunc: c.nodeAdded})
	if err != nil {
		return nil, fmt.Errorf("follow nodes: %w", err)
	}
	c.synced = h.HasSynced
	return c, nil
}

func (c *Controller) nodeAdded(any) { c.look("") }

func (c *Controller) nodeUpdated(old, obj any) {
	before, ok1 := old.(*corev1.Node)
	after, ok2 := obj.(*corev1.Node)
	if !ok1 || !ok2 || isExcluded(before) != isExcluded(after) {
		c.look("")
	}
}

func isExcluded(n *corev1.Node) bool {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	return excluded
}

// look has a service looked at, or all.
func (c *Controller) look(name string) {
	c.mu.Lock()
	c.dirty[name] = struct{}{}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Controller) take() (names []string, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, all = c.dirty[""]
	names = slices.Collect(maps.Keys(c.dirty))
	clear(c.dirty)
	return names, all
}

// Run works until ctx ends, and then has nothing answered any more.
func (c *Controller) Run(ctx context.Context) error {
	defer c.o.Responder.Close()
	if !cache.WaitForCacheSync(ctx.Done(), c.services.HasSynced, c.synced) {
		return nil
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	renew := false
	for {
		next := refresh
		if err := c.set(ctx, renew); err != nil && ctx.Err() == nil {
			c.o.Logger.Warn("announce addresses of services, will retry", "error", err)
			next = retry
		}
		renew = false
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-timer.C:
			c.look("")
		case <-c.o.Changed:
			// Who answered until now may be back from the other side of a split, and
			// neighbours may remember it.
			renew = true
			c.look("")
		}
	}
}

// set elects anew where something changed and answers accordingly.
func (c *Controller) set(ctx context.Context, renew bool) error {
	names, all := c.take()
	names = slices.DeleteFunc(names, func(name string) bool {
		svc := c.services.Service(name)
		return c.elected[name] == nil && (svc == nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer)
	})
	if len(names) == 0 && !all {
		return nil
	}
	if all {
		for name := range c.elected {
			names = append(names, name)
		}
		svcs, err := c.services.Lister().List(labels.Everything())
		if err != nil {
			return fmt.Errorf("list services: %w", err)
		}
		for _, s := range svcs {
			if len(Addresses(s)) > 0 {
				names = append(names, s.Namespace+"/"+s.Name)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	alive, excluded := c.o.Alive(), c.excluded()
	stable := c.stable(alive)
	for _, name := range names {
		c.elect(name, alive, stable, excluded)
	}
	err := c.o.Responder.Set(c.o.Interfaces(), c.addresses(), renew)
	for _, name := range names {
		if len(c.elected[name]) > 0 && err == nil {
			err = errors.Join(err, c.say(ctx, name))
		}
	}
	return err
}

// stable are those of the living that have lived for a while. It has all looked
// at again when that may have changed. Whom this host finds alive when it starts
// has lived before; it itself has not.
func (c *Controller) stable(alive []string) []string {
	now := time.Now()
	if len(c.since) == 0 {
		for _, name := range alive {
			if name != c.o.Self {
				c.since[name] = now.Add(-stableFor)
			}
		}
	}
	maps.DeleteFunc(c.since, func(name string, _ time.Time) bool { return !slices.Contains(alive, name) })
	var out []string
	for _, name := range alive {
		if _, known := c.since[name]; !known {
			c.since[name] = now
			time.AfterFunc(stableFor, func() { c.look("") })
		}
		if now.Sub(c.since[name]) >= stableFor {
			out = append(out, name)
		}
	}
	return out
}

func (c *Controller) excluded() map[string]bool {
	out := map[string]bool{}
	nodes, _ := c.nodes.List(labels.Everything()) // from memory
	for _, n := range nodes {
		if isExcluded(n) {
			out[n.Name] = true
		}
	}
	return out
}

// addresses are all that this host is elected for.
func (c *Controller) addresses() []netip.Addr {
	var all []netip.Addr
	for _, some := range c.elected {
		all = append(all, some...)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// elect notes which addresses of a service this host announces.
func (c *Controller) elect(name string, alive, stable []string, excluded map[string]bool) {
	var mine []netip.Addr
	if svc := c.services.Service(name); svc != nil {
		candidates := Candidates(svc, c.services.Slices(name), stable, excluded)
		if len(candidates) == 0 {
			candidates = Candidates(svc, c.services.Slices(name), alive, excluded)
		}
		for _, a := range Addresses(svc) {
			if Announcer(a, candidates) == c.o.Self {
				mine = append(mine, a)
			}
		}
	}
	if !slices.Equal(mine, c.elected[name]) {
		c.o.Logger.Info("this host announces addresses", "service", name, "addresses", mine, "before", c.elected[name])
	}
	if len(mine) == 0 {
		delete(c.elected, name)
		return
	}
	c.elected[name] = mine
}

// say writes into a service that this host announces it. With addresses of two
// families that two hosts announce, the first one's does.
func (c *Controller) say(ctx context.Context, name string) error {
	svc := c.services.Service(name)
	if svc == nil || !slices.Contains(c.elected[name], Addresses(svc)[0]) {
		return nil
	}
	said := metav1.Condition{Type: v1alpha1.Announced, Status: metav1.ConditionTrue, Reason: "OnLink", Message: c.o.Self, ObservedGeneration: svc.Generation}
	if have := meta.FindStatusCondition(svc.Status.Conditions, said.Type); have != nil && have.Status == said.Status && have.Message == said.Message {
		return nil
	}
	want := svc.DeepCopy()
	meta.SetStatusCondition(&want.Status.Conditions, said)
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	_, err := c.o.Client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, want, metav1.UpdateOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	if apierrors.IsConflict(err) {
		c.look(name) // what changed is about to be heard
		return nil
	}
	return fmt.Errorf("say who announces service %s: %w", name, err)
}
