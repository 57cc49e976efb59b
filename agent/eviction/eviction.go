// Package eviction frees what the host runs out of: memory, disk space, inodes
// and process numbers. It runs the kubelet's own eviction manager (thresholds,
// ranking by QoS class, priority and usage over request, messages, node
// conditions) on readings of this host.
//
// Always true: what can be had without ending a pod (ended containers, unused
// images) is taken first; at most one pod is evicted for a threshold at a time,
// and the next reading waits for it to be gone; pods are measured only when a
// threshold is met or they have limits on storage.
//
// The kernel says when memory gets tight (pressure stall information, Linux
// 4.20); everything else is looked at every ten seconds, which takes less than
// a millisecond.
//
// The agent calls it and does what it decides.
package eviction

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	upstream "k8s.io/kubernetes/pkg/kubelet/eviction"
	evictionapi "k8s.io/kubernetes/pkg/kubelet/eviction/api"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	"k8s.io/utils/clock"

	"shoal/agent/cgroup"
)

const (
	// DefaultInterval is the kubelet's monitoring period.
	DefaultInterval = 10 * time.Second
	// DefaultTransition is how long the kubelet keeps a condition after it was
	// last met, so that nothing is scheduled and evicted in turns.
	DefaultTransition = 5 * time.Minute
	// minGap is the least time between two looks the kernel asks for.
	minGap = time.Second
)

// Options are what a Monitor needs; those with a default may be left out.
type Options struct {
	Node       string
	Thresholds []evictionapi.Threshold
	Transition time.Duration // default DefaultTransition
	Interval   time.Duration // default DefaultInterval
	Groups     *cgroup.Tree
	// NodeFS is a directory on the file system of pods, and ImageFS gives one on
	// that of images; "" is one that is not known, and taken for NodeFS.
	NodeFS  string
	ImageFS func(context.Context) string
	// Pods are the pods that have not ended.
	Pods func() []*v1.Pod
	// PodStats measures pods: their memory and tasks, with disk also what they
	// keep there.
	PodStats func(ctx context.Context, pods []*v1.Pod, disk bool) []statsapi.PodStats
	// Kill ends a pod with that grace in seconds and reports it as change says.
	// It returns when its containers have ended.
	Kill func(ctx context.Context, uid types.UID, grace int64, change func(*v1.PodStatus)) error
	// Gone reports whether nothing is left of an evicted pod but its object.
	Gone func(types.UID) bool
	// Containers and Images take away what is not in use.
	Containers, Images func(context.Context) error
	Recorder           record.EventRecorder
	// Changed is called after the node's conditions have changed.
	Changed func()
	Logger  *slog.Logger
}

// Monitor watches one host.
type Monitor struct {
	o        Options
	manager  upstream.Manager
	admitter lifecycle.PodAdmitHandler
	pressure *pressure
	host     host

	wake chan struct{}

	mu    sync.Mutex
	last  [3]bool // the conditions as last told; guarded by mu
	again bool    // look at once: something was just freed; guarded by mu
}

// New prepares a Monitor. Nothing is watched before Run.
func New(o Options) *Monitor {
	if o.Transition == 0 {
		o.Transition = DefaultTransition
	}
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	m := &Monitor{o: o, wake: make(chan struct{}, 1), again: true, host: host{groups: o.Groups, nodeFS: o.NodeFS}}
	config := upstream.Config{PressureTransitionPeriod: o.Transition, Thresholds: slices.Clone(o.Thresholds)}
	ref := &v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: o.Node, UID: types.UID(o.Node)}
	m.manager, m.admitter = upstream.NewManager(m, config, m.kill, m, m, o.Recorder, ref, clock.RealClock{}, true)
	return m
}

// Run watches until ctx ends, and returns when nothing it started is running.
func (m *Monitor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logger := logr.FromSlogHandler(quiet{m.o.Logger.Handler(), ctx.Done()})
	m.pressure = openPressure()
	defer m.pressure.close()
	var watching sync.WaitGroup
	watching.Go(func() { m.pressure.follow(ctx, m.poke) })
	defer watching.Wait()
	defer cancel()

	// The manager's loop asks for the pods first, and that is where it waits
	// (activePods): its own timer cannot be woken.
	ended := make(chan struct{})
	m.manager.Start(klog.NewContext(ctx, logger), m, func() []*v1.Pod { return m.activePods(ctx, ended) },
		func(pod *v1.Pod) bool { return m.o.Gone(pod.UID) }, time.Nanosecond)
	<-ctx.Done()
	select {
	case <-ended:
	case <-time.After(m.o.Interval):
		// It is in the middle of a kill that does not end; the runner's Run waits
		// for that.
	}
	return nil
}

// Poke has the host looked at now.
func (m *Monitor) Poke() { m.poke() }

func (m *Monitor) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// activePods waits until there is a reason to look, and gives the pods.
func (m *Monitor) activePods(ctx context.Context, ended chan struct{}) []*v1.Pod {
	m.tell()
	m.mu.Lock()
	again := m.again
	m.again = false
	m.mu.Unlock()
	if !again {
		m.wait(ctx)
	}
	if ctx.Err() != nil {
		// This is the loop's last turn: its reading fails, and then it ends.
		m.mu.Lock()
		defer m.mu.Unlock()
		select {
		case <-ended:
		default:
			close(ended)
		}
		return nil
	}
	return m.o.Pods()
}

func (m *Monitor) wait(ctx context.Context) {
	timer := time.NewTimer(m.o.Interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
		return
	case <-time.After(min(minGap, m.o.Interval)):
	}
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-m.wake:
	}
}

// tell reports conditions that have changed.
func (m *Monitor) tell() {
	now := [3]bool{m.manager.IsUnderMemoryPressure(), m.manager.IsUnderDiskPressure(), m.manager.IsUnderPIDPressure()}
	m.mu.Lock()
	changed := now != m.last
	m.last = now
	m.mu.Unlock()
	if changed && m.o.Changed != nil {
		m.o.Changed()
	}
}

// kill is the manager's way to end a pod.
func (m *Monitor) kill(pod *v1.Pod, _ bool, grace *int64, change func(*v1.PodStatus)) error {
	m.tell()
	m.mu.Lock()
	m.again = true
	m.mu.Unlock()
	seconds := int64(0)
	if grace != nil {
		seconds = *grace
	}
	// As the kubelet: its grace, and as much again or ten seconds.
	timeout := time.Duration(seconds)*time.Second + max(time.Duration(seconds)*time.Second/2, killTimeout)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return m.o.Kill(ctx, pod.UID, seconds, change)
}

// killTimeout is the kubelet's least time for a pod to end, beside its grace.
const killTimeout = 10 * time.Second

// DeleteAllUnusedContainers implements upstream's ContainerGC.
func (m *Monitor) DeleteAllUnusedContainers(ctx context.Context) error {
	m.tell()
	return collect(ctx, m.o.Containers)
}

// DeleteUnusedImages implements upstream's ImageGC.
func (m *Monitor) DeleteUnusedImages(ctx context.Context) error { return collect(ctx, m.o.Images) }

// collectTimeout bounds one collection.
const collectTimeout = 2 * time.Minute

func collect(ctx context.Context, f func(context.Context) error) error {
	if f == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	return f(ctx)
}

// Admit says whether the host takes one more pod now; reason is empty if so.
func (m *Monitor) Admit(pod *v1.Pod) (reason, message string) {
	r := m.admitter.Admit(context.Background(), &lifecycle.PodAdmitAttributes{Pod: pod})
	if r.Admit {
		return "", ""
	}
	return r.Reason, r.Message
}
