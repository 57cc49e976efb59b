package policy

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"shoal/netdp/policy/tables"
)

const (
	// settleTime lets changes that come together be written together. A new pod
	// of this host does not wait for it.
	settleTime = 5 * time.Millisecond
	// retryInterval is how soon what could not be written is tried again.
	retryInterval = 2 * time.Second
)

// Datapath is what the Controller writes to.
type Datapath interface {
	SetPolicy(tables.Change) error
	EnforcePolicy(tables.PodWatcher) []tables.LocalPod
	// NotePod keeps what a pod is known by for the next daemon.
	NotePod(uid string, id *tables.Identity) error
}

// Controller follows namespaces, pods and NetworkPolicies.
type Controller struct {
	dp       Datapath
	factory  informers.SharedInformerFactory
	handlers []cache.ResourceEventHandlerRegistration
	changed  chan struct{} // one token: something is to be written
	log      *slog.Logger

	mu     sync.Mutex // guards all below, and orders what is written
	index  *Index
	synced bool // everything was written once
	failed bool // the last write was not whole
}

// New registers the informers it needs with the factory; Run starts them. From
// here on new pods are held until Run has written their policies.
func New(dp Datapath, factory informers.SharedInformerFactory, logger *slog.Logger) (*Controller, error) {
	c := &Controller{dp: dp, factory: factory, changed: make(chan struct{}, 1), index: NewIndex(), log: logger}
	for _, kind := range []struct {
		informer cache.SharedIndexInformer
		changed  func(old, obj any) // one of them nil for what came or went
	}{
		{factory.Core().V1().Namespaces().Informer(), c.namespace},
		{factory.Core().V1().Pods().Informer(), c.pod},
		{factory.Networking().V1().NetworkPolicies().Informer(), c.policy},
	} {
		if err := c.follow(kind.informer, kind.changed); err != nil {
			return nil, fmt.Errorf("follow objects for network policy: %w", err)
		}
	}
	c.takeOver()
	return c, nil
}

func (c *Controller) follow(informer cache.SharedIndexInformer, changed func(old, obj any)) error {
	note := func(old, obj any) {
		c.mu.Lock()
		changed(old, obj)
		c.mu.Unlock()
		c.wake()
	}
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { note(nil, obj) },
		UpdateFunc: note,
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			note(obj, nil)
		},
	})
	c.handlers = append(c.handlers, handler)
	return err
}

func (c *Controller) wake() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *Controller) namespace(old, obj any) {
	if ns, ok := obj.(*corev1.Namespace); ok {
		c.index.SetNamespace(ns.Name, ns.Labels)
	} else if ns, ok := old.(*corev1.Namespace); ok {
		c.index.DeleteNamespace(ns.Name)
	}
}

func (c *Controller) pod(old, obj any) {
	was, had := old.(*corev1.Pod)
	now, has := obj.(*corev1.Pod)
	if had && (!has || was.UID != now.UID) {
		c.index.DeletePod(string(was.UID))
	}
	if has {
		c.index.SetPod(PodOf(now))
	}
}

func (c *Controller) policy(old, obj any) {
	if p, ok := obj.(*networkingv1.NetworkPolicy); ok {
		if err := c.index.SetPolicy(p); err != nil {
			c.log.Warn("a rule that cannot be read allows nothing", "error", err)
		}
	} else if p, ok := old.(*networkingv1.NetworkPolicy); ok {
		c.index.DeletePolicy(p.Namespace, p.Name)
	}
}

// PodAttaching writes a new pod's policies before it has a link, when its object
// is known; else it stays held until then.
func (c *Controller) PodAttaching(p tables.LocalPod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index.Attach(p)
	if c.synced {
		c.write(false)
	}
}

// PodIdentified lets a pod have its policies of whose object nothing is known.
func (c *Controller) PodIdentified(p tables.LocalPod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index.Identify(p)
	if c.synced {
		c.write(false)
	}
}

// PodDetached forgets a pod of this host.
func (c *Controller) PodDetached(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	addrs := c.index.Detach(uid)
	if !c.synced {
		return
	}
	change := c.index.Flush(false)
	for _, addr := range addrs {
		change.Subjects[addr] = tables.Subject{}
	}
	c.set(change)
}

// Run works until ctx ends. The kernel keeps enforcing after it has returned.
func (c *Controller) Run(ctx context.Context) error {
	c.factory.Start(ctx.Done())
	for _, h := range c.handlers {
		if !cache.WaitForCacheSync(ctx.Done(), h.HasSynced) {
			return nil
		}
	}
	c.mu.Lock()
	c.write(true)
	c.synced = true
	news := c.index.News()
	c.mu.Unlock()
	for c.note(news); c.pause(ctx); c.note(news) {
		c.mu.Lock()
		c.write(false)
		news = c.index.News()
		c.mu.Unlock()
	}
	return nil
}

// note waits for pods that are being attached, and these for mu.
func (c *Controller) note(news []tables.LocalPod) {
	for _, p := range news {
		if err := c.dp.NotePod(p.UID, p.Identity); err != nil {
			c.log.Warn("note a pod's labels; the next daemon knows older ones until the API tells it", "pod", p.Namespace+"/"+p.Name, "error", err)
		}
	}
}

// takeOver learns of the pods that are here already.
func (c *Controller) takeOver() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.dp.EnforcePolicy(c) {
		c.index.Attach(p)
	}
}

// pause ends when something is to be written; false: the daemon ends.
func (c *Controller) pause(ctx context.Context) bool {
	c.mu.Lock()
	retry := c.failed
	c.mu.Unlock()
	select {
	case <-ctx.Done():
		return false
	case <-c.changed:
	}
	wait := settleTime
	if retry {
		wait = retryInterval
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (c *Controller) write(complete bool) { c.set(c.index.Flush(complete)) }

func (c *Controller) set(change tables.Change) {
	err := c.dp.SetPolicy(change)
	c.failed = err != nil
	if err != nil {
		c.log.Warn("write network policies; what could not be written is not allowed", "error", err)
		c.wake()
	}
}
