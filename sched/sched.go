// Package sched gives pods to nodes.
//
// A Scheduler watches pods, nodes and namespaces through the daemon's shared
// informers, keeps a placement.Snapshot true, and binds every pod that names
// the scheduler "default-scheduler" and has no node yet. The decision itself is
// in package placement and is pure; this package holds what is not: the queue,
// the clock, the API.
//
// What always holds: a pod is bound through its binding subresource with its
// uid, so a pod that was replaced meanwhile is never bound by mistake; a pod
// counts against its node from the moment it is chosen, before the API server
// has answered; a pod that found no node carries the reason in its PodScheduled
// condition and in an event, and is tried again when something changed that may
// help it. Nothing here polls. Pods that come with spec.nodeName are only
// accounted for. A pod with claims that have no volume yet holds its place on
// the node chosen for it until they have (volumes.go).
//
// A peer schedules the pods of the slices it leads (package slices), and bindings
// carry slice, epoch and leader. Two peers may schedule the same pods during a
// split or a hand-over. Both then bind the same pod; the API server takes the
// first and refuses the second, and the host refuses what does not fit. Hosts do
// not look at epochs yet.
//
// The daemon in cmd/shoal calls New and Run. Workload controllers live in
// sched/controllers.
//
// A pod that finds no node may have pods of lower priority deleted, through the
// API; it is promised their node in its status, waits for them to end, and is
// then tried at once (preempt.go).
package sched

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"shoal/sched/placement"
	"shoal/sched/slices"
)

// maxBinds is how many bindings are under way at once. One takes a few
// milliseconds of the API server, mostly waiting for its disk; more than this
// would only queue there.
const maxBinds = 32

// Options is what a Scheduler needs.
type Options struct {
	// Client writes bindings, conditions and events; it should not be rate
	// limited (QPS -1).
	Client kubernetes.Interface
	// Informers is the daemon's shared factory.
	Informers informers.SharedInformerFactory
	// Alive reports whether gossip calls the host of a node alive. A Node says so
	// a little later: the first thing that a new leader places must not go to the
	// old one, which is dead. Nil: all are.
	Alive func(node string) bool
	// Slices says which pods are this scheduler's, by their uids. Nil: all are, and
	// bindings carry no stamp.
	Slices Slices
	Logger *slog.Logger
	// Clock is the real one when nil.
	Clock clock.WithDelayedExecution
}

// Slices is the part of a slices.Leader that a Scheduler needs.
type Slices interface {
	Led() slices.Set
	Stamp(slice int) (slices.Stamp, bool)
	Watch() (changed <-chan struct{}, stop func())
}

// Scheduler binds pods to nodes. Make it with New.
type Scheduler struct {
	client    kubernetes.Interface
	alive     func(node string) bool
	share     Slices
	informers informers.SharedInformerFactory
	log       *slog.Logger
	clock     clock.WithDelayedExecution
	reports   *reporter
	synced    []cache.InformerSynced
	unwatch   []func()
	failed    error // of watching

	mu       sync.Mutex
	led      slices.Set           // guarded by mu
	snapshot *placement.Snapshot  // guarded by mu
	queue    *queue               // guarded by mu
	assumed  map[types.UID]string // guarded by mu; node names of pods chosen but not yet seen bound
	holding  map[types.UID]*held  // guarded by mu; the assumed that wait for volumes
	bindable []decision           // guarded by mu; held no longer
	ready    chan struct{}        // holds one token when the queue may have work
}

// New registers the informers a scheduler needs. A factory that more than one
// term uses is Lasting.
func New(o Options) *Scheduler {
	s := &Scheduler{
		client:    o.Client,
		alive:     o.Alive,
		share:     o.Slices,
		informers: o.Informers,
		log:       o.Logger,
		clock:     o.Clock,
		snapshot:  placement.NewSnapshot(),
		assumed:   map[types.UID]string{},
		holding:   map[types.UID]*held{},
		ready:     make(chan struct{}, 1),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.clock == nil {
		s.clock = clock.RealClock{}
	}
	if s.alive == nil {
		s.alive = func(string) bool { return true }
	}
	if s.share == nil {
		s.share = whole{}
	}
	s.led = s.share.Led()
	s.queue = newQueue(s.clock, s.wake)
	s.reports = newReporter(o.Client, s.log, s.clock)
	s.watch()
	return s
}

// Run schedules until the context ends; it returns when everything it started
// has ended, and watches nothing from then on. An error means the informers
// never delivered.
func (s *Scheduler) Run(ctx context.Context) error {
	defer func() {
		for _, stop := range s.unwatch {
			stop()
		}
	}()
	if s.failed != nil {
		return fmt.Errorf("start scheduler: %w", s.failed)
	}
	s.informers.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		return fmt.Errorf("start scheduler: pods and nodes could not be listed: %w", context.Cause(ctx))
	}
	s.log.Info("scheduler started", "nodes", s.nodeCount())
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return s.reports.run(ctx) })
	work.Go(func() error { return s.loop(ctx) })
	work.Go(func() error { return s.followShare(ctx) })
	if err := work.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("run scheduler: %w", err)
	}
	return nil
}

func (s *Scheduler) nodeCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot.Nodes()
}

func (s *Scheduler) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// loop decides one pod at a time and leaves the writing to others.
func (s *Scheduler) loop(ctx context.Context) error {
	var binds errgroup.Group
	binds.SetLimit(maxBinds)
	defer func() { _ = binds.Wait() }() // the binds report their own errors
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ready:
		}
		for ctx.Err() == nil {
			d, more := s.decideNext()
			switch {
			case d.preemption != nil:
				binds.Go(func() error { s.preempt(ctx, d.pod, *d.preemption); return nil })
			case d.node != "":
				binds.Go(func() error { s.settle(ctx, d); return nil })
			}
			if !more {
				break
			}
		}
	}
}

// decision is a pod with the node chosen for it, which is empty when there was
// none. The pod is the one decided on; the item may get a newer one meanwhile.
type decision struct {
	item    *item
	pod     *v1.Pod
	node    string
	volumes []placement.VolumeBinding
	// preemption is set instead when others must go first.
	preemption *placement.Preemption
}

// decideNext takes the next pod off the queue and places it; more is false when
// the queue had nothing to give.
func (s *Scheduler) decideNext() (d decision, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := len(s.bindable) - 1; last >= 0 {
		d, s.bindable = s.bindable[last], s.bindable[:last]
		return d, true
	}
	it := s.queue.next()
	if it == nil {
		return decision{}, false
	}
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("placing a pod panicked; it is tried again later", "pod", it.name(), "panic", r, "stack", string(debug.Stack()))
			s.queue.retry(it)
			d, more = decision{}, true
		}
	}()
	result := s.snapshot.Place(it.pod)
	if result.Node == "" {
		return s.setAside(it, result.Diagnosis), true
	}
	if err := s.snapshot.Assume(result); err != nil {
		s.log.Warn("a pod's volumes cannot be bound; it is tried again", "pod", it.name(), "error", err)
		s.queue.retry(it)
		return decision{}, true
	}
	s.snapshot.SetPod(it.pod, result.Node)
	s.assumed[it.pod.UID] = result.Node
	s.queue.changed(placement.PodPlaced)
	return decision{item: it, pod: it.pod, node: result.Node, volumes: result.Volumes}, true
}

// setAside parks a pod until something changes, and says why. The decision is not
// empty when pods of lower priority must go for it.
func (s *Scheduler) setAside(it *item, d placement.Diagnosis) (begun decision) {
	p := s.snapshot.Preempt(it.pod, d)
	switch {
	case p.Node != "":
		s.snapshot.Promise(it.pod, p)
		begun = decision{item: it, pod: it.pod, preemption: &p}
	case !p.Holds:
		s.nominate(it.pod, "")
	}
	o := outcome{d.String(), s.snapshot.Nominated(it.pod.UID)}
	if p.Message != "" {
		o.message += " " + p.Message
	}
	if o != it.reported && s.reports.unschedulable(it.pod, o) {
		it.reported = o
	}
	s.queue.park(it, d.Waits)
	return begun
}

var errHostGone = errors.New("gossip does not call the node's host alive")

// bind writes the decision. The pod stays assumed until the informer shows it
// bound or gone.
func (s *Scheduler) bind(ctx context.Context, d decision) {
	err := errHostGone
	if s.alive(d.node) {
		err = s.writeBinding(ctx, d.pod, d.node)
	}
	if err == nil {
		s.reports.scheduled(d.pod, d.node)
		return
	}
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeBack(d, err)
}

// takeBack frees what was assumed for a pod that could not be bound.
func (s *Scheduler) takeBack(d decision, err error) {
	delete(s.holding, d.pod.UID)
	if s.assumed[d.pod.UID] != d.node {
		return // seen bound, or gone, meanwhile
	}
	level := slog.LevelWarn
	if apierrors.IsConflict(err) { // decided on what has changed meanwhile
		level = slog.LevelDebug
	}
	s.log.Log(context.Background(), level, "binding failed; the pod is tried again", "pod", podName(d.pod), "node", d.node, "error", err)
	s.forget(d.pod.UID)
	s.nominate(d.item.pod, d.item.pod.Status.NominatedNodeName)
	s.queue.retry(d.item)
}

// forget takes an assumed pod off its node again.
func (s *Scheduler) forget(uid types.UID) {
	delete(s.assumed, uid)
	s.snapshot.RemovePod(uid)
	s.queue.changed(placement.PodGone)
}

func podName(pod *v1.Pod) string { return pod.Namespace + "/" + pod.Name }
