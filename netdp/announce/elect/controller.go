package elect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"shoal/api/loadbalancer/v1alpha1"
	"shoal/netdp/services"
)

const (
	// refresh bounds how long an interface that came anew, or a condition that
	// somebody else wrote, stays unnoticed.
	refresh = 30 * time.Second
	// retry is how soon something that failed is done again.
	retry = 2 * time.Second
	// stableFor is Options.StableFor unless it is given: one that has just come
	// back still starts, and one that comes and goes would have addresses move
	// each time.
	stableFor = 15 * time.Second
	// handOver is how long a host that leaves waits for others to announce what it
	// did, and handOverLook how often it looks.
	handOver     = 10 * time.Second
	handOverLook = 50 * time.Millisecond
	// writeTimeout bounds one write.
	writeTimeout = 5 * time.Second
)

// Responder answers on the link.
type Responder interface {
	Set(interfaces []string, addresses []netip.Addr, renew bool) error
	// Answers tells whether it does so for an address by now, and if another
	// machine has it, which.
	Answers(a netip.Addr) (yes bool, taken net.HardwareAddr)
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
	// Interfaces are those to other machines, Links the networks they are in, and
	// Hardware their hardware addresses.
	Interfaces func() []string
	Links      func() ([]netip.Prefix, error)
	Hardware   func() []net.HardwareAddr
	Responder  Responder
	Client     kubernetes.Interface
	// Now is this host's wall clock; nil is time.Now.
	Now func() time.Time
	// StableFor is how long a host must have been ready to take over from another
	// one that lives; 0 is a default.
	StableFor time.Duration
	// Events are for services whose address another machine has.
	Events record.EventRecorder
	Logger *slog.Logger
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

	leaving atomic.Bool

	// Only the goroutine of Run uses these.
	elected map[string][]netip.Addr // by service
	started time.Time
	// since orders this host among the others, see sinceNow.
	since time.Time
	// seen is when a host came (back) to life; zero: before this one looked.
	seen   map[string]time.Time
	ripens map[string]time.Time // when a host will be stable
}

// New registers the informers it needs with the factory.
func New(o Options, factory informers.SharedInformerFactory) (*Controller, error) {
	nodes := factory.Core().V1().Nodes()
	c := &Controller{
		o: o, nodes: nodes.Lister(),
		wake: make(chan struct{}, 1), dirty: map[string]struct{}{}, elected: map[string][]netip.Addr{}, ripens: map[string]time.Time{},
	}
	if c.o.StableFor == 0 {
		c.o.StableFor = stableFor
	}
	if c.o.Now == nil {
		c.o.Now = time.Now
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
	if !ok1 || !ok2 || isExcluded(before) != isExcluded(after) || differs(before, after, v1alpha1.Links) || differs(before, after, v1alpha1.AnnouncesSince) ||
		differs(before, after, v1alpha1.AnnouncesStable) {
		c.look("")
	}
}

func differs(before, after *corev1.Node, annotation string) bool {
	return before.Annotations[annotation] != after.Annotations[annotation]
}

// Look has all services looked at, as when what the Responder answers has changed.
func (c *Controller) Look() { c.look("") }

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
	c.started, c.since = time.Now(), c.sinceNow()
	due := c.started // when all services are looked at, however often some are
	timer := time.NewTimer(0)
	defer timer.Stop()
	renew := false
	wrong := "" // as last logged
	for {
		err := c.set(ctx, renew)
		renew = false // an interface that comes later is told of all
		if err == nil {
			wrong = ""
		} else if ctx.Err() == nil {
			if wrong != err.Error() {
				wrong = err.Error()
				c.o.Logger.Warn("announce addresses of services, will retry", "error", err)
			}
			if again := time.Now().Add(retry); again.Before(due) {
				due = again
			}
		}
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-timer.C:
			due = time.Now().Add(refresh)
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
	v := c.view()
	verdicts := make([]verdict, len(names))
	for i, name := range names {
		verdicts[i] = c.elect(name, v)
	}
	// One interface, or one service, that cannot be used keeps no other back.
	errs := []error{c.o.Responder.Set(c.o.Interfaces(), c.addresses(), renew)}
	if all {
		errs = append(errs, c.publish(ctx))
	}
	for i, name := range names {
		err := c.say(ctx, name, verdicts[i])
		errs = append(errs, err)
		if errors.Is(err, context.DeadlineExceeded) {
			break // the API hangs; elections must not wait for it once for each service
		}
	}
	return errors.Join(errs...)
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

// verdict is what an election says that this host is to tell of a service.
type verdict struct {
	first   netip.Addr // of its addresses
	elected bool       // this host is, for the first
	nobody  bool       // can, and this host is the one to say so
}

// elect notes which addresses of a service this host announces.
func (c *Controller) elect(name string, v view) (told verdict) {
	var mine []netip.Addr
	if svc := c.services.Service(name); svc != nil {
		slices := c.services.Slices(name)
		for i, a := range Addresses(svc) {
			who := v.announcer(svc, slices, a)
			if who == c.o.Self {
				mine = append(mine, a)
			}
			if i == 0 {
				told.first, told.elected = a, who == c.o.Self
				told.nobody = who == "" && Announcer(a, v.alive) == c.o.Self
			}
		}
	}
	if !slices.Equal(mine, c.elected[name]) {
		c.o.Logger.Info("addresses that this host announces", "service", name, "addresses", mine, "before", c.elected[name])
	}
	if len(mine) == 0 {
		delete(c.elected, name)
	} else {
		c.elected[name] = mine
	}
	return told
}
