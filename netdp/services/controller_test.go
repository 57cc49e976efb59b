package services

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"shoal/netdp"
)

// hostNamespace makes a network namespace that stands for the host.
func hostNamespace(t *testing.T) string {
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
func testCgroup(t *testing.T) string {
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

func options(t *testing.T) netdp.Options {
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
	t      *testing.T
	dp     *netdp.Datapath
	client *fake.Clientset
	stop   func()
}

func start(t *testing.T, opts netdp.Options, client *fake.Clientset) *running {
	t.Helper()
	dp, err := netdp.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(client, 0)
	c := New(dp, factory, "test", slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return &running{t: t, dp: dp, client: client, stop: func() {
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
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
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
