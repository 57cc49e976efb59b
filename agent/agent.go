// Package agent runs this host's share of the cluster's pods.
//
// It registers the host as a Node, watches the pods bound to it, has them
// run by agent/runner, writes their status back, and serves the kubelet's
// HTTP API (logs, exec, attach, port-forward) and shoal's image endpoints.
//
// Always true: stopping the agent leaves pods running, and the next one
// adopts the same containers; a pod's object is deleted only after nothing of
// it is left here; what a pod asks for and this host cannot do is said in an
// Event and in the pod's status, never ignored.
//
// The daemon makes one Agent. It does not schedule, allocate addresses or
// program the network: the Network it is given does the latter.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"

	"shoal/agent/cgroup"
	"shoal/agent/devices"
	"shoal/agent/eviction"
	"shoal/agent/image"
	"shoal/agent/logwriter"
	"shoal/agent/objects"
	"shoal/agent/podcerts"
	"shoal/agent/runner"
	"shoal/agent/runtimes"
	"shoal/agent/shutdown"
	"shoal/agent/stats"
	"shoal/agent/volume"
	"shoal/netdp/driver"
)

// Options say what an Agent works with. Zero values have the defaults named.
type Options struct {
	NodeName            string
	Config              *rest.Config // to the API server
	ContainerdSocket    string       // default /run/containerd/containerd.sock
	ContainerdNamespace string       // default "shoal"
	CgroupRoot          string       // group below which pods live; default "/shoal"
	KeepCgroupRoot      bool         // it is somebody else's, and stays when all pods are gone
	DataDir             string       // shoal's data; ours is agent/ in it; default /var/lib/shoal
	LogDir              string       // pod logs; default /var/log/pods
	Network             driver.Driver
	// NetworkReady says what keeps pods from getting a network, as long as
	// something does; it may be nil.
	NetworkReady func(ctx context.Context) error
	// Conditions are those of the Node that others know of; type, status, reason
	// and message are used. It may be nil.
	Conditions func() []v1.NodeCondition
	// NodeLabels are put on the Node beside the usual ones.
	NodeLabels    map[string]string
	LogLimits     logwriter.Limits    // of each container's files; default logwriter.DefaultLimits
	Runtimes      *runtimes.Set       // for RuntimeClasses; default runc alone
	NodeIPs       func() []netip.Addr // this host's, IPv4 first; one of IPv6 may come and go
	PodCIDRs      []string            // of this host's pods, IPv4 first
	Manifests     string              // directory of static pods; none if empty
	ClusterDNS    []netip.Addr        // servers for pods with dnsPolicy ClusterFirst; the host's when empty
	ClusterDomain string              // default cluster.local
	// DNSAddress, if any, is asked in place of ClusterDNS when a pod starts.
	DNSAddress func() netip.Addr
	// Collectors are of other parts of the daemon, served with our metrics.
	Collectors []prometheus.Collector
	// Handlers are of other parts of the daemon, by pattern, served beside the
	// kubelet's API to whoever may use the node's proxy.
	Handlers        map[string]http.Handler
	Resources       Resources
	DevicePluginDir string   // where device plugins register; none can if empty
	CDIDirs         []string // of CDI files; default /etc/cdi and /var/run/cdi
	Security        Security
	Images          Images
	ListenAddr      string      // host:port of the kubelet API; default :10250
	TLS             *tls.Config // must ask for client certificates and verify those given
	Version         string      // shown as the node's kubelet version
	// Looked is called once, when the host was first looked at for what to evict,
	// just before the first pod is; it may be nil.
	Looked func()
	Logger *slog.Logger

	// Shutdown is how long pods get when the machine shuts down, by priority;
	// ShutdownBus is a D-Bus address in place of the system's.
	Shutdown    []shutdown.Period
	ShutdownBus string
}

// The kubelet's client limits scaled to a host that starts 100 pods at once.
const (
	clientQPS   = 500
	clientBurst = 1000
)

// containerdTimeout bounds the first answer from containerd.
const containerdTimeout = 10 * time.Second

// fill sets what was left out.
func (o *Options) fill() {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&o.ContainerdSocket, "/run/containerd/containerd.sock")
	set(&o.ContainerdNamespace, "shoal")
	set(&o.CgroupRoot, "/shoal")
	set(&o.DataDir, "/var/lib/shoal")
	o.Images.fill(o.DataDir)
	set(&o.Security.SeccompDir, filepath.Join(o.DataDir, "seccomp"))
	o.DataDir = filepath.Join(o.DataDir, "agent")
	set(&o.LogDir, "/var/log/pods")
	set(&o.ListenAddr, ":10250")
	if o.Runtimes == nil {
		o.Runtimes, _ = runtimes.Parse(nil) // nothing to go wrong
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// check names what cannot be left out, or is missing on this host.
func (o *Options) check() error {
	switch {
	case o.NodeName == "":
		return errors.New("create agent: no node name")
	case o.Config == nil:
		return errors.New("create agent: no API server")
	case o.Network == nil:
		return errors.New("create agent: no network")
	case os.Geteuid() != 0:
		return errors.New("create agent: not root; namespaces, mounts and cgroups need it; run with sudo")
	case !logwriter.Supported:
		return errors.New("create agent: built without the log writer; build for linux with CGO_ENABLED=1")
	}
	return nil
}

// Agent runs pods on this host.
type Agent struct {
	o       Options
	log     *slog.Logger
	client  *containerd.Client
	kube    kubernetes.Interface
	images  *image.Store
	cgroups *cgroup.Tree
	volumes *volume.Volumes
	runner  *runner.Runner
	source  *source
	status  *statusWriter
	events  *events
	node    *node
	pods    *podIndex
	objects *objects.Cache
	certs   *podcerts.Certificates
	stats   *stats.Reader
	callers *callers
	readers *utilcache.LRUExpireCache // when a log was last read whole, by container id
	metrics *agentMetrics
	statics *statics
	listen  net.Listener
	monitor *eviction.Monitor
	// admitting is held while one pod is judged beside the others.
	admitting sync.Mutex
	admission lifecycle.PodAdmitHandler
	room      chan struct{} // has a token when a resize that waits may fit

	security *podSecurity
	shutdown *shutdown.Manager
	devices  *devices.Plugins // nil: there are none
	synced   atomic.Bool      // every pod of this host is known
	known    atomic.Bool      // the same, before what is left of others was removed
}

// New checks what the host offers and prepares an Agent. It listens, so that
// a taken port is an error here, and runs nothing.
func New(o Options) (*Agent, error) {
	o.fill()
	if err := errors.Join(o.Resources.fill(), o.check()); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", o.ListenAddr)
	if err != nil {
		return nil, fmt.Errorf("listen for the agent's API on %s: %w; stop what uses it or choose another address", o.ListenAddr, err)
	}
	o.ListenAddr = listener.Addr().String() // a port of 0 is a number now
	a := &Agent{o: o, log: o.Logger, pods: newPodIndex(), room: make(chan struct{}, 1), metrics: newAgentMetrics(), readers: utilcache.NewLRUExpireCache(readersKnown), listen: limitConnections(listener, connsMax, connsEach, o.Logger)}
	if err := a.connect(); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	if err := a.build(); err != nil {
		return nil, errors.Join(err, a.client.Close(), listener.Close())
	}
	return a, nil
}

func (a *Agent) connect() error {
	if _, err := os.Stat(a.o.ContainerdSocket); err != nil {
		return fmt.Errorf("connect to containerd: %w; install and start containerd, or name its socket", err)
	}
	client, err := containerd.New(a.o.ContainerdSocket, containerd.WithDefaultNamespace(a.o.ContainerdNamespace),
		containerd.WithTimeout(containerdTimeout), containerd.WithExtraDialOpts([]grpc.DialOption{a.metrics.dialCounted()}))
	if err != nil {
		return fmt.Errorf("connect to containerd at %s: %w", a.o.ContainerdSocket, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), containerdTimeout)
	defer cancel()
	if _, err := client.Version(ctx); err != nil {
		_ = client.Close()
		return fmt.Errorf("connect to containerd at %s: %w", a.o.ContainerdSocket, err)
	}
	a.client = client
	return nil
}

func (a *Agent) build() error {
	config := rest.CopyConfig(a.o.Config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.QPS, config.Burst = clientQPS, clientBurst
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("create agent: %w", err)
	}
	a.kube = kube
	if a.security, err = newPodSecurity(a.o.Security.UnsafeSysctls); err != nil {
		return err
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the log writer: %w", err)
	}
	if a.cgroups, err = cgroup.Open(a.o.CgroupRoot); err != nil {
		return err
	}
	a.cgroups.KeepRoot = a.o.KeepCgroupRoot
	a.source = newSource(kube)
	a.objects = objects.New(kube, a.source)
	if a.volumes, err = volume.Open(a.o.DataDir, a.objects); err != nil {
		return err
	}
	a.volumes.Register(volume.KindLocal, &volume.Local{
		NodeLabels: a.nodeLabels,
		Warn:       func(pod *v1.Pod, reason, message string) { a.Event(pod, v1.EventTypeWarning, reason, message) },
	})
	a.images = a.newImages()
	a.events = newEvents(kube, a.o.NodeName)
	a.status = newStatusWriter(kube, a.log)
	a.node = newNode(a.o, kube, a.client, a.cgroups)
	a.volumes.Allocatable = a.node.allocatable
	a.node.images = a.images
	if err := a.newDevices(); err != nil {
		return err
	}
	a.runner, err = runner.New(runner.Options{
		Client: a.client, Namespace: a.o.ContainerdNamespace, Snapshotter: snapshotter,
		Images: a.images, Cgroups: a.cgroups, Volumes: a.volumes, Network: a.o.Network,
		Runtimes: a.o.Runtimes, Security: a.o.Security.host(), Source: a.source, Sink: a, Admit: a.admit, Allocate: a.allocate, Devices: a.containerDevices(), CDIDirs: a.o.CDIDirs, Await: a.await, Probed: a.metrics.sawProbe, DataDir: a.o.DataDir, LogDir: filepath.Clean(a.o.LogDir), LogLimits: a.o.LogLimits,
		LogWriter: binary, NodeName: a.o.NodeName, NodeIPs: a.o.NodeIPs, Logger: a.log,
		ClusterDNS: a.o.ClusterDNS, DNSAddress: a.o.DNSAddress, ClusterDomain: a.o.ClusterDomain, PodPIDs: a.o.Resources.PodPIDs,
	})
	if err != nil {
		return err
	}
	a.node.users = a.runner.UserNamespaces
	a.objects.Changed = a.runner.Refresh
	a.certs = podcerts.New(kube, a.o.NodeName, a.runner.Refresh, a.Event)
	a.volumes.Certificates = a.certs
	a.stats = a.newStats()
	a.callers = newCallers(kube, a.o.NodeName)
	a.monitor = a.newMonitor()
	a.admission = a.newAdmission()
	a.node.pressure = a.monitor.Conditions
	a.statics = newStatics(a)
	a.shutdown = a.newShutdown()
	a.node.closing = a.shutdown.Closing
	a.node.tell = func(kind, reason, message string) { a.events.node(a.o.NodeName, kind, reason, message) }
	return nil
}

const snapshotter = "overlayfs"

// Run registers the node and runs its pods until ctx ends; pods keep
// running. It returns after everything it started has ended.
func (a *Agent) Run(ctx context.Context) error {
	defer a.client.Close()
	g, ctx := errgroup.WithContext(ctx)
	ready := make(chan struct{})
	var once sync.Once
	g.Go(func() error { return a.runner.Run(ctx, func() { once.Do(func() { close(ready) }) }) })
	g.Go(func() error { return a.status.run(ctx) })
	g.Go(func() error { return a.events.run(ctx) })
	g.Go(func() error { return a.source.run(ctx) })
	g.Go(func() error { return a.objects.Run(ctx) })
	g.Go(func() error { return a.certs.Run(ctx) })
	g.Go(func() error { return a.node.run(ctx) })
	g.Go(func() error { return a.node.follow(ctx) })
	g.Go(func() error { return a.node.watchKills(ctx) })
	g.Go(func() error { return a.keepImages(ctx) })
	g.Go(func() error { return a.monitor.Run(ctx) })
	g.Go(func() error { return a.retryResizes(ctx) })
	g.Go(func() error { return a.serve(ctx) })
	if a.devices != nil {
		g.Go(func() error { return a.devices.Run(ctx) })
	}
	g.Go(func() error {
		select {
		case <-ready:
		case <-ctx.Done():
			return nil
		}
		a.statics.load()
		g.Go(func() error { return a.shutdown.Run(ctx) })
		g.Go(func() error { return a.statics.run(ctx) })
		return a.watch(ctx)
	})
	return g.Wait()
}

// StopPods stops and removes every pod of this host and what was kept for
// them. Run must be running; the pods' objects stay.
func (a *Agent) StopPods(ctx context.Context) error {
	if err := a.runner.StopAll(ctx); err != nil {
		return err
	}
	return errors.Join(a.runner.Close(), a.volumes.Close(), a.cgroups.RemoveRoot())
}

// watch follows the pods bound to this host.
func (a *Agent) watch(ctx context.Context) error {
	lw := cache.NewListWatchFromClient(a.kube.CoreV1().RESTClient(), "pods", v1.NamespaceAll,
		fields.OneTermEqualSelector("spec.nodeName", a.o.NodeName))
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: &v1.Pod{}, Handler: a, Transform: withoutManagedFields,
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			return
		}
		a.statics.allKnown()
		a.known.Store(true)
		a.monitor.Poke()
		if err := a.runner.Synced(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("leftovers of earlier pods could not all be removed", "error", err)
		}
		a.synced.Store(true)
	})
	informer.RunWithContext(ctx)
	wg.Wait()
	return nil
}

// OnAdd tells the runner of a pod. It implements cache.ResourceEventHandler.
func (a *Agent) OnAdd(obj any, _ bool) { a.OnUpdate(nil, obj) }

// OnUpdate tells the runner of a pod's change.
func (a *Agent) OnUpdate(_, obj any) {
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return
	}
	if kubetypes.IsMirrorPod(pod) {
		a.statics.observe(pod)
		return
	}
	a.pods.put(pod)
	if ended(pod) {
		a.roomMade()
	}
	a.metrics.sawPod(pod)
	a.status.observe(pod)
	a.objects.Set(pod)
	a.runner.Set(pod)
}

// OnDelete tells the runner that a pod's object is gone.
func (a *Agent) OnDelete(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return
	}
	if kubetypes.IsMirrorPod(pod) {
		a.statics.forget(pod)
		return
	}
	a.pods.drop(pod)
	a.roomMade()
	a.metrics.forget(pod.UID)
	a.status.forget(pod.UID)
	a.objects.Drop(pod.UID)
	a.certs.Drop(pod)
	a.runner.Remove(pod.UID)
}

// await takes from the runner that something a pod's containers need is missing.
func (a *Agent) await(pod *v1.Pod) { a.objects.Await(pod) }

// Status takes a pod's new status from the runner.
func (a *Agent) Status(pod *v1.Pod, status v1.PodStatus) {
	a.metrics.sawStatus(pod.UID, status.Phase)
	if a.statics.owns(pod) {
		a.statics.put(pod, status)
		return
	}
	a.status.put(pod, status)
}

// Gone takes from the runner that nothing is left of a pod.
func (a *Agent) Gone(pod *v1.Pod) {
	if a.statics.owns(pod) {
		a.statics.gone(pod)
		return
	}
	a.status.gone(pod)
}

// Event takes an event from the runner.
func (a *Agent) Event(pod *v1.Pod, kind, reason, message string) {
	a.ContainerEvent(pod, "", kind, reason, message)
}

// ContainerEvent takes an event about a container from the runner.
func (a *Agent) ContainerEvent(pod *v1.Pod, field, kind, reason, message string) {
	a.metrics.sawEvent(reason)
	a.events.pod(pod, field, kind, reason, message)
}
