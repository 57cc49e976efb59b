package devices

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const name = "example.com/thing"

// liar is a plugin that answers as it is told to.
type liar struct {
	api.UnimplementedDevicePluginServer
	options api.DevicePluginOptions
	list    chan []*api.Device
	prefers []string
	empty   bool
}

func (l *liar) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &l.options, nil
}

func (l *liar) ListAndWatch(_ *api.Empty, s grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	for {
		select {
		case <-s.Context().Done():
			return nil
		case list := <-l.list:
			if err := s.Send(&api.ListAndWatchResponse{Devices: list}); err != nil {
				return err
			}
		}
	}
}

func (l *liar) Allocate(context.Context, *api.AllocateRequest) (*api.AllocateResponse, error) {
	if l.empty {
		return &api.AllocateResponse{}, nil
	}
	return &api.AllocateResponse{ContainerResponses: []*api.ContainerAllocateResponse{{}}}, nil
}

func (l *liar) GetPreferredAllocation(context.Context, *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	return &api.PreferredAllocationResponse{ContainerResponses: []*api.ContainerPreferredAllocationResponse{{DeviceIDs: l.prefers}}}, nil
}

// bench is a Plugins that runs, and who may use devices.
type bench struct {
	t       *testing.T
	plugins *Plugins
	options Options
	ended   map[types.UID]bool
	stop    func()
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, ended: map[types.UID]bool{}}
	dir := t.TempDir()
	b.options = Options{
		Dir: filepath.Join(dir, "p"), DataDir: filepath.Join(dir, "data"),
		Uses:    func(uid types.UID) bool { return !b.ended[uid] },
		Changed: func() {}, Health: func(types.UID) {}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

func (b *bench) start() {
	b.t.Helper()
	var err error
	if b.plugins, err = New(b.options); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.plugins.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
		b.stop = func() {}
	}
	b.eventually("the socket", func() bool {
		conn, err := net.Dial("unix", filepath.Join(b.options.Dir, socketName))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("waited for %s", what)
		}
	}
}

// serve has a plugin listen on a socket of this name, and register.
func (b *bench) serve(l *liar, socket string) *grpc.Server {
	b.t.Helper()
	l.list = make(chan []*api.Device, 1)
	path := filepath.Join(b.options.Dir, socket)
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		b.t.Fatal(err)
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, l)
	go func() { _ = server.Serve(listener) }()
	b.t.Cleanup(server.Stop)
	if _, err := b.plugins.Register(b.t.Context(), &api.RegisterRequest{Version: api.Version, Endpoint: socket, ResourceName: name}); err != nil {
		b.t.Fatal(err)
	}
	return server
}

func (b *bench) has(capacity, healthy int64) {
	b.t.Helper()
	b.eventually("the capacity", func() bool {
		all, ok := b.plugins.Capacity()
		has, left := all[name], ok[name]
		return has.Value() == capacity && left.Value() == healthy
	})
}

func healthy(ids ...string) []*api.Device {
	var out []*api.Device
	for _, id := range ids {
		out = append(out, &api.Device{ID: id, Health: api.Healthy})
	}
	return out
}

// asking is a pod whose containers, named "init..." or else, ask for one each.
func asking(uid string, containers ...string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}}
	always := v1.ContainerRestartPolicyAlways
	for _, c := range containers {
		one := v1.Container{Name: c, Resources: v1.ResourceRequirements{Limits: v1.ResourceList{name: resource.MustParse("1"), v1.ResourceCPU: resource.MustParse("1")}}}
		switch {
		case strings.HasPrefix(c, "sidecar"):
			one.RestartPolicy = &always
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, one)
		case strings.HasPrefix(c, "init"):
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, one)
		default:
			pod.Spec.Containers = append(pod.Spec.Containers, one)
		}
	}
	return pod
}

func (b *bench) refused(pod *v1.Pod, want string) {
	b.t.Helper()
	if err := b.plugins.Admit(b.t.Context(), pod); err == nil || !strings.Contains(err.Error(), want) {
		b.t.Errorf("%s: %v, want an error with %q", pod.UID, err, want)
	}
}

func (b *bench) admitted(pod *v1.Pod) {
	b.t.Helper()
	if err := b.plugins.Admit(b.t.Context(), pod); err != nil {
		b.t.Errorf("%s: %v", pod.UID, err)
	}
}

func TestBadRegistrations(t *testing.T) {
	b := newBench(t)
	good := &api.RegisterRequest{Version: api.Version, Endpoint: "x.sock", ResourceName: name}
	for want, change := range map[string]func(*api.RegisterRequest){
		"Supported version":  func(r *api.RegisterRequest) { r.Version = "v9" },
		`"cpu" is invalid`:   func(r *api.RegisterRequest) { r.ResourceName = "cpu" },
		"name of the plugin": func(r *api.RegisterRequest) { r.Endpoint = "../x.sock" },
		`endpoint ""`:        func(r *api.RegisterRequest) { r.Endpoint = "" },
		"kubelet.sock":       func(r *api.RegisterRequest) { r.Endpoint = socketName },
		"options":            func(*api.RegisterRequest) {}, // nobody is there
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		r := &api.RegisterRequest{Version: good.Version, Endpoint: good.Endpoint, ResourceName: good.ResourceName}
		change(r)
		if _, err := b.plugins.Register(ctx, r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q: %v", want, err)
		}
		cancel()
	}
	if all, _ := b.plugins.Capacity(); len(all) != 0 {
		t.Errorf("capacity of what was refused: %v", all)
	}
}

// TestSockets: a second daemon leaves the first one's socket alone, a later one
// removes sockets of plugins and no file.
func TestSockets(t *testing.T) {
	b := newBench(t)
	other := b.options
	other.DataDir = t.TempDir()
	second, err := New(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.listen(t.Context()); err == nil || !strings.Contains(err.Error(), "another --device-plugin-dir") {
		t.Errorf("a second daemon: %v", err)
	}
	if err := os.WriteFile(filepath.Join(b.options.Dir, "notes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.serve(&liar{}, "left.sock")
	b.stop()
	b.start()
	entries, err := os.ReadDir(b.options.Dir)
	if err != nil || len(entries) != 2 || entries[0].Name() != socketName || entries[1].Name() != "notes" {
		t.Errorf("in the directory: %v, %v", entries, err)
	}
	if _, err := New(Options{Dir: "plugins"}); err == nil {
		t.Error("a relative directory is taken")
	}
}

func TestLies(t *testing.T) {
	b := newBench(t)
	l := &liar{options: api.DevicePluginOptions{GetPreferredAllocationAvailable: true}, prefers: []string{"nosuch", "b", "b"}}
	b.serve(l, "x.sock")
	b.refused(asking("early", "main"), "no healthy devices present; cannot allocate unhealthy devices example.com/thing")
	l.list <- append(healthy("a", "b", "b"), &api.Device{ID: "c", Health: "odd"})
	b.has(3, 2)
	l.empty = true
	b.refused(asking("empty", "main"), "no containers return in allocation response")
	l.empty = false
	b.refused(asking("three", "x", "y", "z"), "Requested: 1, Available: 0")
	b.admitted(asking("two", "x", "y")) // nothing stayed with those refused
	if h := b.plugins.Status("two", "x"); len(h) != 1 || h[0].Resources[0].ResourceID != "b" {
		t.Errorf("the first container has %+v", h)
	}
	changed := asking("two", "x", "y")
	changed.Spec.Containers[0].Resources.Limits[name] = resource.MustParse("2")
	b.refused(changed, "changed request for resource")
	l.list <- nil
	b.has(0, 0)
	if h := b.plugins.Held(); h[name] != 2 {
		t.Errorf("held: %v", h)
	}
}

// TestReuse: an init container's device goes to those after it, a sidecar's does
// not.
func TestReuse(t *testing.T) {
	b := newBench(t)
	l := &liar{}
	b.serve(l, "x.sock")
	l.list <- healthy("a", "b")
	b.has(2, 2)
	b.admitted(asking("p", "init1", "init2", "sidecar", "main"))
	b.ended["p"] = true
	b.refused(asking("q", "init1", "sidecar", "main", "other"), "Available: 0")
	b.admitted(asking("r", "x", "y"))
}

// TestRestarts: what is held outlives the daemon, and a file that is damaged
// does not stop it.
func TestRestarts(t *testing.T) {
	b := newBench(t)
	l := &liar{}
	server := b.serve(l, "x.sock")
	l.list <- healthy("a", "b")
	b.has(2, 2)
	b.admitted(asking("p", "main"))
	server.Stop() // the plugin is killed
	b.has(2, 0)
	b.refused(asking("q", "main"), "no healthy devices")
	b.stop()
	b.start()
	b.has(0, 0)
	b.admitted(asking("p", "main")) // has it already
	if use, err := b.plugins.For(t.Context(), asking("p", "main"), &asking("p", "main").Spec.Containers[0]); err != nil || use == nil {
		t.Errorf("what a restarted container needs: %v, %v", use, err)
	}
	l = &liar{}
	b.serve(l, "x.sock")
	l.list <- healthy("a", "b")
	b.has(2, 2)
	// It comes back on its socket before its end is seen.
	l = &liar{}
	b.serve(l, "x.sock")
	l.list <- healthy("a", "b", "c")
	b.has(3, 3)
	b.admitted(asking("q", "main", "other"))
	b.refused(asking("r", "main"), "Available: 0")
	b.stop()
	file := filepath.Join(b.options.DataDir, checkpointName)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, data[:len(data)/2], slices.Concat(data[:20], []byte("x"), data[20:])} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := New(b.options); err != nil || len(p.Held()) != 0 {
			t.Errorf("with a damaged file: %v, %v", p, err)
		}
	}
}
