package services

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"shoal/netdp"
)

// hostNamespace makes a network namespace that stands for the host.
func hostNamespace(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "host")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil {
			t.Error(err)
		}
	})
	return path
}

// testCgroup makes a cgroup that no process is in.
func testCgroup(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "cgroup2" {
			continue
		}
		dir, err := os.MkdirTemp(f[1], "shoal-services-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	t.Skip("needs a cgroup2 mount")
	return ""
}

func options(t testing.TB) netdp.Options {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to load programs")
	}
	dir := t.TempDir()
	return netdp.Options{
		StateDir: filepath.Join(dir, "state"), BPFFSDir: filepath.Join(dir, "bpf"),
		CgroupRoot: testCgroup(t), NetNS: hostNamespace(t),
		PodCIDR: netip.MustParsePrefix("10.64.8.0/24"), Logger: slog.New(slog.DiscardHandler),
	}
}

// running is a controller at work on a real datapath.
type running struct {
	t       *testing.T
	dp      *netdp.Datapath
	client  *fake.Clientset
	members *members
	events  chan string
	stop    func()

	controller *Controller
}

// members are what gossip would say.
type members struct {
	mu      sync.Mutex
	alive   map[string]bool
	changed chan struct{}
}

func (m *members) Alive() map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.alive)
}

func (m *members) Changed() <-chan struct{} { return m.changed }

func (m *members) set(names ...string) {
	m.mu.Lock()
	m.alive = map[string]bool{"test": true}
	for _, name := range names {
		m.alive[name] = true
	}
	m.mu.Unlock()
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func start(t *testing.T, opts netdp.Options, client *fake.Clientset, alive ...string) *running {
	t.Helper()
	return startWith(t, opts, client, nil, alive...)
}

func startWith(t *testing.T, opts netdp.Options, client *fake.Clientset, reserved []Reserved, alive ...string) *running {
	t.Helper()
	dp, err := netdp.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(client, 0)
	recorder := record.NewFakeRecorder(1000)
	known := &members{changed: make(chan struct{}, 1)}
	known.set(alive...)
	c := New(Options{Datapath: dp, Informers: factory, Node: "test", Logger: slog.New(slog.DiscardHandler),
		Members: known, Events: recorder, Reserved: reserved})
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return &running{t: t, dp: dp, client: client, members: known, controller: c, events: recorder.Events, stop: func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	}}
}

// reaches waits until the kernel holds what want says, one service a line.
func (r *running) reaches(want string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		have, err := r.dp.KernelServices()
		if err != nil {
			r.t.Fatal(err)
		}
		got := render(have)
		if got == want {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.t.Fatalf("kernel has\n%s\nwant\n%s", got, want)
		}
	}
}

// told waits for an Event.
func (r *running) told() string {
	r.t.Helper()
	select {
	case e := <-r.events:
		return e
	case <-time.After(2 * time.Minute):
		r.t.Fatal("there is no Event")
	}
	return ""
}

func (r *running) must(_ any, err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestKernelFollowsTheAPI(t *testing.T) {
	ctx := t.Context()
	opts := options(t)
	client := fake.NewClientset(service(), slice(endpoint("10.64.8.1", "ready serving")))
	r := start(t, opts, client)
	svcs, slices := client.CoreV1().Services("default"), client.DiscoveryV1().EndpointSlices("default")
	const line = "default/web:80/TCP TCP: 10.0.0.10:80 -> "
	r.reaches(line + "10.64.8.1:8080")

	r.must(slices.Update(ctx, slice(endpoint("10.64.8.1", "ready serving"), endpoint("10.64.8.2", "ready serving")), metav1.UpdateOptions{}))
	r.reaches(line + "10.64.8.1:8080, 10.64.8.2:8080")
	r.must(slices.Update(ctx, slice(endpoint("10.64.8.1", "serving terminating"), endpoint("10.64.8.2", "ready serving")), metav1.UpdateOptions{}))
	r.reaches(line + "10.64.8.1:8080 draining, 10.64.8.2:8080")

	moved := slice(endpoint("10.64.8.2", "ready serving"))
	moved.Labels = map[string]string{discoveryv1.LabelServiceName: "other"}
	r.must(slices.Update(ctx, moved, metav1.UpdateOptions{}))
	r.reaches(line)
	r.must(slices.Update(ctx, slice(endpoint("10.64.8.2", "ready serving")), metav1.UpdateOptions{}))

	withPort := service(func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 })
	r.must(svcs.Update(ctx, withPort, metav1.UpdateOptions{}))
	node := "default/web:80/TCP TCP: node port 30080 -> "
	r.reaches(node + "10.64.8.2:8080\n" + line + "10.64.8.2:8080")

	other := service(func(s *corev1.Service) {
		s.Name, s.Spec.ClusterIP, s.Spec.ClusterIPs = "late", "10.0.0.11", []string{"10.0.0.11"}
		s.Spec.Ports[0].NodePort = 30080 // until the first gives it up
	})
	r.must(svcs.Create(ctx, other, metav1.CreateOptions{}))
	r.must(nil, svcs.Delete(ctx, "web", metav1.DeleteOptions{}))
	r.reaches("default/late:80/TCP TCP: node port 30080 -> \ndefault/late:80/TCP TCP: 10.0.0.11:80 -> ")
	r.stop()

	// While nobody watches, the service goes; a new daemon lets go of it.
	r.must(nil, r.dp.Close())
	r.must(nil, svcs.Delete(ctx, "late", metav1.DeleteOptions{}))
	r.must(svcs.Create(ctx, service(), metav1.CreateOptions{}))
	r = start(t, opts, client)
	r.reaches(line + "10.64.8.2:8080")
	r.stop()
	r.must(nil, r.dp.Remove())
}

// Endpoints of a host leave with it, before any object says so, and return.
func TestEndpointsFollowTheirHost(t *testing.T) {
	ctx := t.Context()
	client := fake.NewClientset(service(), slice(
		on("test", endpoint("10.64.8.1", "ready serving")), on("other", endpoint("10.64.9.1", "ready serving")),
		on("gone", endpoint("10.64.10.1", "ready serving")), endpoint("192.0.2.1", "ready serving")),
		node("test", corev1.ConditionTrue, "KubeletReady"), node("other", corev1.ConditionTrue, "KubeletReady"),
		node("gone", corev1.ConditionUnknown, "NodeStatusUnknown"))
	r := start(t, options(t), client, "other")
	const line = "default/web:80/TCP TCP: 10.0.0.10:80 -> "
	r.reaches(line + "10.64.8.1:8080, 10.64.9.1:8080, 192.0.2.1:8080")
	r.members.set()
	r.reaches(line + "10.64.8.1:8080, 192.0.2.1:8080")
	r.members.set("other", "gone")
	r.reaches(line + "10.64.8.1:8080, 10.64.9.1:8080, 10.64.10.1:8080, 192.0.2.1:8080")
	r.members.set("other")
	r.reaches(line + "10.64.8.1:8080, 10.64.9.1:8080, 192.0.2.1:8080")

	hinted := slice(zoned("a", endpoint("10.64.8.1", "ready")), zoned("b", endpoint("10.64.9.1", "ready")))
	r.must(client.DiscoveryV1().EndpointSlices("default").Update(ctx, hinted, metav1.UpdateOptions{}))
	r.reaches(line + "10.64.8.1:8080, 10.64.9.1:8080")
	for _, zone := range []struct{ name, want string }{
		{"a", "10.64.8.1:8080, 10.64.9.1:8080 draining"}, {"b", "10.64.8.1:8080 draining, 10.64.9.1:8080"}, {"", "10.64.8.1:8080, 10.64.9.1:8080"},
	} {
		here := node("test", corev1.ConditionTrue, "KubeletReady")
		here.Labels = map[string]string{corev1.LabelTopologyZone: zone.name}
		r.must(client.CoreV1().Nodes().Update(ctx, here, metav1.UpdateOptions{}))
		r.reaches(line + zone.want)
	}
	r.stop()
	r.must(nil, r.dp.Remove())
}

func TestHostPortsFollowTheirPods(t *testing.T) {
	ctx := t.Context()
	opts := options(t)
	opts.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	pod := withPorts(corev1.ContainerPort{HostPort: 30080, ContainerPort: 80})
	elsewhere := withPorts(corev1.ContainerPort{HostPort: 8080, ContainerPort: 80})
	elsewhere.Name, elsewhere.Spec.NodeName = "elsewhere", "other"
	client := fake.NewClientset(pod, elsewhere)
	r := start(t, opts, client)
	const lines = "pod default/web:30080/TCP TCP: 127.0.0.1:30080 -> 10.64.8.1:80\n" +
		"pod default/web:30080/TCP TCP: 192.0.2.1:30080 outside -> 10.64.8.1:80"
	r.reaches(lines)

	// A service that wants the same port waits, and says so.
	svc := service(func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 })
	r.must(client.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{}))
	if e := r.told(); !strings.Contains(e, "AddressTaken") || !strings.Contains(e, "pod default/web:30080/TCP") {
		t.Errorf("the Event says %q", e)
	}
	r.must(nil, client.CoreV1().Pods("default").Delete(ctx, "web", metav1.DeleteOptions{}))
	const node = "default/web:80/TCP TCP: node port 30080 -> \ndefault/web:80/TCP TCP: 10.0.0.10:80 -> "
	r.reaches(node)
	r.must(client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}))
	if e := r.told(); !strings.Contains(e, "AddressTaken") || !strings.Contains(e, "default/web:80/TCP") {
		t.Errorf("the Event says %q", e)
	}
	r.must(nil, client.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}))
	r.reaches(lines)
	r.stop()

	// A new daemon knows them before it lets go of anything.
	r.must(nil, r.dp.Close())
	r = start(t, opts, client)
	r.reaches(lines)
	ended := pod.DeepCopy()
	ended.Status.Phase = corev1.PodSucceeded
	r.must(client.CoreV1().Pods("default").UpdateStatus(ctx, ended, metav1.UpdateOptions{}))
	r.reaches("")
	r.stop()
	r.must(nil, r.dp.Remove())
}

// A hostPort is called at an address that the host got later, too.
func TestHostPortsFollowTheHostsAddresses(t *testing.T) {
	ctx := t.Context()
	opts := options(t)
	opts.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	client := fake.NewClientset(withPorts(corev1.ContainerPort{HostPort: 30080, ContainerPort: 80}))
	r := start(t, opts, client)
	const lines = "pod default/web:30080/TCP TCP: 127.0.0.1:30080 -> 10.64.8.1:80\n" +
		"pod default/web:30080/TCP TCP: 192.0.2.1:30080 outside -> 10.64.8.1:80"
	r.reaches(lines)
	r.must(nil, r.dp.SetNodeIPs([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}))
	here := node("test", corev1.ConditionTrue, "KubeletReady")
	here.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.2"}}
	r.must(client.CoreV1().Nodes().Create(ctx, here, metav1.CreateOptions{}))
	r.reaches(lines + "\npod default/web:30080/TCP TCP: 192.0.2.2:30080 outside -> 10.64.8.1:80")
	r.stop()
	r.must(nil, r.dp.Remove())
}

// A process that listens on a port before a service gets it is told of.
func TestPortInUseIsAnEvent(t *testing.T) {
	ctx := t.Context()
	opts := options(t)
	r := start(t, opts, fake.NewClientset())
	var held net.Listener
	r.must(nil, inNamespace(opts.NetNS, func() (err error) {
		held, err = net.Listen("tcp4", ":30081")
		return err
	}))
	defer held.Close()
	for _, port := range []int32{30080, 30081} {
		svc := service(func(s *corev1.Service) {
			s.Name = map[int32]string{30080: "free", 30081: "taken"}[port]
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
			s.Spec.ClusterIP = "10.0.0." + map[int32]string{30080: "1", 30081: "2"}[port]
			s.Spec.Ports[0].NodePort = port
		})
		r.must(r.client.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{}))
	}
	if e := r.told(); !strings.Contains(e, "PortInUse") || !strings.Contains(e, "node port 30081") {
		t.Errorf("the Event says %q", e)
	}
	r.reaches("default/free:80/TCP TCP: node port 30080 -> \ndefault/taken:80/TCP TCP: node port 30081 -> \n" +
		"default/free:80/TCP TCP: 10.0.0.1:80 -> \ndefault/taken:80/TCP TCP: 10.0.0.2:80 -> ")
	r.stop()
	if len(r.events) > 0 {
		t.Errorf("one more Event: %s", <-r.events)
	}
	r.must(nil, r.dp.Remove())
}

// inNamespace runs f on a thread of its own inside the network namespace.
func inNamespace(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		file, err := os.Open(path)
		if err == nil {
			defer file.Close()
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}
