// Package runner runs pods through containerd: a pod's wish goes in, its
// containers and its status come out.
//
// One worker owns one pod. It is the only goroutine that changes that pod's
// state, and it acts on what it is told: a new wish, an exit, a finished
// pull, a timer. Nothing polls.
//
// Always true: a container is started at most once per attempt, also when
// the daemon dies between two steps, because every container carries labels
// that say whose it is; stopping Run leaves all pods running; a pod is
// reported gone only after its processes, namespaces, mounts, groups,
// snapshots and volumes are.
//
// The agent calls Set and Remove as the API tells it and gives a Sink for
// what happens. The runner knows no API server.
package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"shoal/agent/cgroup"
	"shoal/agent/image"
	"shoal/agent/logwriter"
	"shoal/agent/oci"
	"shoal/agent/prober"
	"shoal/agent/runtimes"
	"shoal/agent/secretspec"
	"shoal/agent/userns"
	"shoal/agent/volume"
	"shoal/netdp/driver"
)

// Source gives the objects pods refer to.
type Source interface {
	volume.Source
	// RuntimeHandler is the handler that a RuntimeClass names.
	RuntimeHandler(ctx context.Context, class string) (string, error)
	// ServiceEnv is the environment that tells of the services of a
	// namespace, or only of the API's when links is false.
	ServiceEnv(ctx context.Context, namespace string, links bool) (map[string]string, error)
}

// Sink hears what happens to pods. Its methods must not block.
type Sink interface {
	// Status is called with every change of a pod's status, in order.
	Status(pod *v1.Pod, status v1.PodStatus)
	// Gone is called once, when nothing is left of a pod on this host.
	Gone(pod *v1.Pod)
	// Event is something a user wants to read.
	Event(pod *v1.Pod, kind, reason, message string)
	// ContainerEvent is one of a container, which field names as events do, as
	// in spec.containers{web}.
	ContainerEvent(pod *v1.Pod, field, kind, reason, message string)
}

// Admitter says whether a pod fits; reason and message are empty if so.
type Admitter func(pod *v1.Pod) (reason, message string)

// Allocator gives a pod with the resources it may have now, which are not those
// it asks for while a resize waits: then it says why. The same pod is returned
// while nothing differs, and the same copy otherwise.
type Allocator func(pod *v1.Pod) (*v1.Pod, *Pending)

// Options are what a Runner needs; all fields but Admit, Allocate, Await
// and Logger are
// required.
type Options struct {
	Client      *containerd.Client
	Namespace   string // of containerd
	Snapshotter string
	Images      *image.Store
	Cgroups     *cgroup.Tree
	Volumes     *volume.Volumes
	Network     driver.Driver
	Runtimes    *runtimes.Set // runc alone if nil
	Security    oci.Security
	Source      Source
	Sink        Sink
	Admit       Admitter
	Allocate    Allocator
	Devices     Devices  // nil: there are no device plugins
	CDIDirs     []string // of CDI files; default /etc/cdi and /var/run/cdi
	// Await is told of a pod that cannot start for want of an object; Refresh
	// answers when it may be there. It must not block.
	Await func(pod *v1.Pod)
	// Probed, if any, hears of each probe's answer; it must not block.
	Probed    func(pod *v1.Pod, container, kind, result string)
	DataDir   string
	LogDir    string // such as /var/log/pods
	LogWriter string // binary that links agent/logwriter and agent/secretspec
	NodeName  string
	NodeIPs   func() []netip.Addr
	// ClusterDNS are the servers of pods with dnsPolicy ClusterFirst; with none
	// these get the host's. ClusterDomain is by default "cluster.local".
	ClusterDNS []netip.Addr
	// DNSAddress, if any, is asked in place of ClusterDNS when a pod starts.
	DNSAddress    func() netip.Addr
	ClusterDomain string
	LogLimits     logwriter.Limits // of each container; default logwriter.DefaultLimits
	PodPIDs       int64            // bound on the tasks of one pod; 0 is none
	Logger        *slog.Logger
}

// startsPerCPU bounds containers being created at once. Starting is nearly
// all CPU (shim, runc, runc again), so more in flight only delays the first.
const startsPerCPU = 3

// stopsPerCPU bounds clean-ups at once, for the same reason.
const stopsPerCPU = 6

// execsPerCPU bounds commands of probes being started at once, likewise.
const execsPerCPU = 2

// Runner runs the pods of one host.
type Runner struct {
	Options
	pins         *pins
	logs         *logIndex
	oom          oomScore
	host         oci.Host
	users        userCache
	imageVolumes imageVolumes
	vault        *secretspec.Vault
	ids          *userns.IDs
	usersAllowed func() error // why there are no user namespaces here, if so
	starts       chan struct{}
	stops        chan struct{}

	mu      sync.Mutex
	workers map[types.UID]*worker // guarded by mu
	found   map[types.UID][]found // containers from before, not yet adopted; guarded by mu
	ctx     context.Context       // of Run; guarded by mu
	closed  bool                  // StopAll was called: nothing starts any more; guarded by mu
	wg      sync.WaitGroup

	probes *prober.Prober
	execs  chan struct{} // commands of probes being started
}

// New prepares a Runner. Nothing runs before Run.
func New(o Options) (*Runner, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Admit == nil {
		o.Admit = func(*v1.Pod) (string, string) { return "", "" }
	}
	if o.Await == nil {
		o.Await = func(*v1.Pod) {}
	}
	if o.Snapshotter == "" {
		o.Snapshotter = "overlayfs"
	}
	if o.ClusterDomain == "" {
		o.ClusterDomain = "cluster.local"
	}
	if o.Runtimes == nil {
		o.Runtimes, _ = runtimes.Parse(nil) // nothing to go wrong
	}
	p, err := openPins(filepath.Join(o.DataDir, "ns"))
	if err != nil {
		return nil, err
	}
	logs, err := openLogIndex(filepath.Join(o.DataDir, "logs-made"))
	if err != nil {
		return nil, err
	}
	vault, err := secretspec.Open(filepath.Join(o.Volumes.SecretsDir(), ".spec"), o.LogWriter)
	if err != nil {
		return nil, err
	}
	ids, err := userns.OpenIDs(filepath.Join(o.DataDir, "pods"))
	if err != nil {
		return nil, err
	}
	r := &Runner{
		Options: o,
		ids:     ids,
		usersAllowed: sync.OnceValue(func() error {
			return userns.Probe(o.DataDir, o.Volumes.SecretsDir())
		}),
		vault:   vault,
		pins:    p,
		logs:    logs,
		starts:  make(chan struct{}, startsPerCPU*runtime.GOMAXPROCS(0)),
		execs:   make(chan struct{}, execsPerCPU*runtime.GOMAXPROCS(0)),
		probes:  prober.New(),
		stops:   make(chan struct{}, stopsPerCPU*runtime.GOMAXPROCS(0)),
		workers: map[types.UID]*worker{},
		found:   map[types.UID][]found{},
	}
	r.imageVolumes = imageVolumes{o.Client, o.Snapshotter}
	o.Volumes.Register(volume.KindImage, r.imageVolumes)
	r.oom.probe(o.Logger)
	r.host = oci.HostOf(o.Cgroups)
	return r, nil
}

// Run finds the containers of earlier runs, calls ready, and returns after
// ctx ends and all workers have stopped. Pods stay as they are.
func (r *Runner) Run(ctx context.Context, ready func()) error {
	ctx = namespaces.WithNamespace(ctx, r.Namespace)
	if err := r.discover(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	r.wg.Go(func() { r.probes.Run(ctx) })
	begun := sinceBoot()
	r.wg.Go(func() { r.sweepStrays(ctx, begun) })
	ready()
	<-ctx.Done()
	r.wg.Wait()
	return nil
}

// Set tells the runner what a pod should be now. It must not be called
// before Run has called ready.
func (r *Runner) Set(pod *v1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.workers[pod.UID]
	if w == nil {
		if r.ctx == nil || r.ctx.Err() != nil || r.closed {
			return
		}
		w = newWorker(r, pod, r.found[pod.UID])
		delete(r.found, pod.UID)
		r.workers[pod.UID] = w
		r.wg.Go(func() { w.run(r.ctx) })
		return
	}
	w.set(pod)
}

// Poke has a pod looked at again: what Allocate says of it has changed.
func (r *Runner) Poke(uid types.UID) {
	r.mu.Lock()
	w := r.workers[uid]
	r.mu.Unlock()
	if w != nil {
		w.poke()
	}
}

// Remove tells the runner that a pod's object is no more: it is stopped at
// once, with no more grace than it has left.
func (r *Runner) Remove(uid types.UID) {
	r.mu.Lock()
	w := r.workers[uid]
	r.mu.Unlock()
	if w != nil {
		w.remove(false)
	}
}

// Synced tells the runner that Set has been called for every pod there is:
// what else it found on the host is cleaned up.
func (r *Runner) Synced(ctx context.Context) error {
	return r.sweep(namespaces.WithNamespace(ctx, r.Namespace))
}

// Clear removes what earlier runners left of every pod, its logs too. It is
// for a runner that does not run.
func (r *Runner) Clear(ctx context.Context) error {
	ctx = namespaces.WithNamespace(ctx, r.Namespace)
	if err := r.discover(ctx); err != nil {
		return err
	}
	return errors.Join(r.sweepPods(ctx, nobody), r.logs.sweep(r.LogDir, nobody))
}

// StopAll stops and removes every pod, also those of earlier runs that Set
// has not yet named, and returns when all are gone, or names those that could
// not be cleaned up. The pods' objects and logs are untouched.
func (r *Runner) StopAll(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	all := make([]*worker, 0, len(r.workers))
	for _, w := range r.workers {
		all = append(all, w)
	}
	r.mu.Unlock()
	for _, w := range all {
		w.remove(true)
	}
	var errs []error
	left := map[string]bool{} // have been tried often enough
	for _, w := range all {
		select {
		case <-w.ended:
		case <-ctx.Done():
			return fmt.Errorf("stop pods: %w", ctx.Err())
		}
		if w.left != nil {
			errs, left[string(w.uid)] = append(errs, w.left), true
		}
	}
	swept := r.sweepPods(namespaces.WithNamespace(ctx, r.Namespace), func(uid string) bool { return left[uid] })
	return errors.Join(append(errs, swept)...)
}

// Close takes away what the runner keeps for all pods. Only after StopAll.
func (r *Runner) Close() error { return r.pins.close() }

func (r *Runner) ended(w *worker) {
	r.mu.Lock()
	if r.workers[w.uid] == w {
		delete(r.workers, w.uid)
	}
	r.mu.Unlock()
}

// acquire takes a place in slots, or fails when ctx ends first.
func acquire(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// now is when something happened, at the API's resolution.
func now() time.Time { return time.Now() }
