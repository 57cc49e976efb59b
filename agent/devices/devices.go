// Package devices gives pods the devices of device plugins: processes that
// register over a socket, tell what they have (GPUs, network functions,
// /dev/kvm) as an extended resource, and say what a container needs to use one
// (the kubelet's device plugin API, v1beta1, KEP-3573).
//
// Always true: a device is held by one pod at a time, and by one container of
// it at a time; only a device that its plugin calls healthy is handed out; what
// a pod holds is on disk before its containers start, and stays the pod's over
// restarts of the daemon and of the plugin until nothing of the pod runs here.
//
// The agent makes one Plugins, asks Admit once per pod, For once per container
// that is made, and Capacity when it writes its Node. Without plugins this is
// one listening socket and a look into an empty map. Devices are not aligned
// with NUMA nodes: this host has no topology policy.
//
// Upstream's manager (k8s.io/kubernetes/pkg/kubelet/cm/devicemanager) has its
// socket's path fixed, so two daemons on one machine would fight for it; its
// rules and its words are kept here.
package devices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/checkpointmanager"
)

const (
	// socketName is where plugins look, in the directory.
	socketName = "kubelet.sock"
	// answerTimeout bounds a plugin's answer to everything but PreStartContainer,
	// whose bound is the API's.
	answerTimeout = 30 * time.Second
	// connectTimeout bounds the way to a plugin that registers: the kubelet's.
	connectTimeout = 10 * time.Second
	// goneGrace is how long a resource stays in the Node's capacity after its
	// last plugin went: the kubelet's endpointStopGracePeriod.
	goneGrace = 5 * time.Minute
)

// Options are what a Plugins needs; all are required.
type Options struct {
	Dir     string // where plugins have their sockets; absolute
	DataDir string // where what pods hold is kept
	// Uses reports whether a pod may still use what it holds.
	Uses func(types.UID) bool
	// Changed is told that Capacity has changed; it must not block.
	Changed func()
	// Health is told that the health of a pod's devices has changed; it must
	// not block.
	Health func(types.UID)
	Logger *slog.Logger
}

// Plugins are this host's device plugins and what pods hold of them.
type Plugins struct {
	o     Options
	disk  checkpointmanager.CheckpointManager
	turn  sync.Mutex // held while one pod is given devices
	watch sync.WaitGroup

	mu        sync.Mutex
	resources map[string]*offer // by resource name; guarded by mu
	held      heldByPod         // guarded by mu
	closed    bool              // no plugin may register any more; guarded by mu

	api.UnsafeRegistrationServer
}

// offer is a resource and who serves it.
type offer struct {
	plugins []*plugin              // the newest, which is asked, last
	devices map[string]*api.Device // as last told, by identifier
	gone    time.Time              // when the last plugin went
	// prestart is what the last plugin said of PreStartContainer.
	prestart bool
}

// New reads what pods hold from before.
func New(o Options) (*Plugins, error) {
	if !filepath.IsAbs(o.Dir) {
		return nil, fmt.Errorf("serve device plugins in %q: want an absolute path", o.Dir)
	}
	disk, err := checkpointmanager.NewCheckpointManager(o.DataDir)
	if err != nil {
		return nil, fmt.Errorf("keep devices of pods in %s: %w", o.DataDir, err)
	}
	p := &Plugins{o: o, disk: disk, resources: map[string]*offer{}, held: heldByPod{}}
	p.load()
	return p, nil
}

// Run takes plugins' registrations until ctx ends, and returns after all it
// began has ended. A host that cannot take them says so and runs on without.
func (p *Plugins) Run(ctx context.Context) error {
	listener, err := p.listen(ctx)
	if err != nil {
		p.o.Logger.Error("device plugins cannot register", "error", err)
		return nil
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	api.RegisterRegistrationServer(server, p)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	err = server.Serve(listener)
	p.disconnect()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve device plugins in %s: %w", p.o.Dir, err)
}

// listen makes the directory and its socket. Sockets from before go, as with
// the kubelet: plugins take a new one for the sign to register again.
func (p *Plugins) listen(ctx context.Context) (net.Listener, error) {
	path := filepath.Join(p.o.Dir, socketName)
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen on %s: another daemon or kubelet does; give one of them another --device-plugin-dir", path)
	}
	if err := os.MkdirAll(p.o.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("make directory of device plugins: %w; choose another --device-plugin-dir", err)
	}
	entries, err := os.ReadDir(p.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("read directory of device plugins: %w", err)
	}
	for _, e := range entries {
		if e.Type()&os.ModeSocket != 0 {
			err = errors.Join(err, os.Remove(filepath.Join(p.o.Dir, e.Name())))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("remove sockets of device plugins from before: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for device plugins: %w", err)
	}
	return listener, nil
}

// disconnect ends every plugin's connection and waits for those who read.
func (p *Plugins) disconnect() {
	p.mu.Lock()
	p.closed = true
	for _, o := range p.resources {
		for _, one := range o.plugins {
			_ = one.conn.Close()
		}
	}
	p.mu.Unlock()
	p.watch.Wait()
}

// Capacity is what plugins have of each resource they ever registered here, and
// how much of it is healthy. A resource whose plugin stays away is zero.
func (p *Plugins) Capacity() (capacity, allocatable v1.ResourceList) {
	capacity, allocatable = v1.ResourceList{}, v1.ResourceList{}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, o := range p.resources {
		all := 0
		if o.present() {
			all = len(o.devices)
		}
		capacity[v1.ResourceName(name)] = *resource.NewQuantity(int64(all), resource.DecimalSI)
		allocatable[v1.ResourceName(name)] = *resource.NewQuantity(int64(o.healthy().Len()), resource.DecimalSI)
	}
	return capacity, allocatable
}

// present reports whether a plugin serves the resource or went only now.
func (o *offer) present() bool { return len(o.plugins) > 0 || time.Since(o.gone) < goneGrace }

// healthy are the devices that may be handed out: none without a plugin.
func (o *offer) healthy() sets.Set[string] {
	out := sets.New[string]()
	if len(o.plugins) == 0 {
		return out
	}
	for id, d := range o.devices {
		if d.Health == api.Healthy {
			out.Insert(id)
		}
	}
	return out
}

// serves reports whether a resource is a plugin's. It is called with mu held.
func (p *Plugins) serves(name string) bool {
	o := p.resources[name]
	return o != nil && o.present() || p.held.any(name)
}

// Held is how many devices of each resource pods hold.
func (p *Plugins) Held() map[v1.ResourceName]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[v1.ResourceName]int64{}
	for name, ids := range p.held.byResource() {
		out[v1.ResourceName(name)] = int64(ids.Len())
	}
	return out
}

// Holds reports whether a pod holds devices.
func (p *Plugins) Holds(uid types.UID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.held[string(uid)]) > 0
}

// names are the resources of a container that plugins may serve, in order.
func names(c *v1.Container) []v1.ResourceName {
	return slices.Sorted(maps.Keys(c.Resources.Limits))
}
