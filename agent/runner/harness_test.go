package runner

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"shoal/agent/cgroup"
	"shoal/agent/image"
	"shoal/agent/internal/testbed"
	"shoal/agent/oci"
	"shoal/agent/runtimes"
	"shoal/agent/volume"
)

// waitLimit bounds every wait of these tests; it is never the thing tested, and
// far above what the slowest machine needs.
const waitLimit = 3 * time.Minute

const testImage = "docker.io/library/box:latest"

// objects is a volume source from memory: the runner's core knows no API.
type objects struct {
	configMaps map[string]*v1.ConfigMap
	secrets    map[string]*v1.Secret
	handlers   map[string]string    // of runtime classes
	pv         *v1.PersistentVolume // every claim is bound to it
	asked      atomic.Int32         // for the config map "soon", which the fourth question finds
}

func (o *objects) ConfigMap(_ context.Context, namespace, name string) (*v1.ConfigMap, error) {
	if name == "soon" && o.asked.Add(1) <= 3 {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
	}
	if c := o.configMaps[namespace+"/"+name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (o *objects) Secret(_ context.Context, namespace, name string) (*v1.Secret, error) {
	if s := o.secrets[namespace+"/"+name]; s != nil {
		return s, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func (o *objects) Token(_ context.Context, _, account string, req *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	req.Status.Token = "token-of-" + account
	return req, nil
}

func (o *objects) Claim(_ context.Context, namespace, name string) (*v1.PersistentVolumeClaim, *v1.PersistentVolume, error) {
	if o.pv != nil {
		return &v1.PersistentVolumeClaim{}, o.pv, nil
	}
	return nil, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumeclaims"}, name)
}

func (o *objects) RuntimeHandler(_ context.Context, class string) (string, error) {
	if h, ok := o.handlers[class]; ok {
		return h, nil
	}
	return "", apierrors.NewNotFound(schema.GroupResource{Group: "node.k8s.io", Resource: "runtimeclasses"}, class)
}

func (o *objects) ServiceEnv(context.Context, string, bool) (map[string]string, error) {
	return map[string]string{"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, nil
}

// record is a Sink that tests wait on.
type record struct {
	mu     sync.Mutex
	cond   *sync.Cond
	status map[types.UID]v1.PodStatus
	gone   map[types.UID]bool
	events []string
	fields map[string]string // where the last event of a pod and reason was
}

func newRecord() *record {
	r := &record{status: map[types.UID]v1.PodStatus{}, gone: map[types.UID]bool{}}
	r.cond = sync.NewCond(&r.mu)
	return r
}

func (r *record) Status(pod *v1.Pod, s v1.PodStatus) {
	r.mu.Lock()
	r.status[pod.UID] = s
	r.mu.Unlock()
	r.cond.Broadcast()
}

func (r *record) Gone(pod *v1.Pod) {
	r.mu.Lock()
	r.gone[pod.UID] = true
	r.mu.Unlock()
	r.cond.Broadcast()
}

func (r *record) ContainerEvent(pod *v1.Pod, field, kind, reason, message string) {
	r.mu.Lock()
	if r.fields == nil {
		r.fields = map[string]string{}
	}
	r.fields[pod.Name+" "+reason] = field
	r.mu.Unlock()
	r.Event(pod, kind, reason, message)
}

func (r *record) Event(pod *v1.Pod, kind, reason, message string) {
	r.mu.Lock()
	r.events = append(r.events, pod.Name+" "+reason+": "+message)
	r.mu.Unlock()
	r.cond.Broadcast()
}

// until waits until ok holds, with the record locked.
func (r *record) until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	late := false
	timer := time.AfterFunc(waitLimit, func() {
		r.mu.Lock()
		late = true
		r.mu.Unlock()
		r.cond.Broadcast()
	})
	defer timer.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for !ok() {
		if late {
			t.Fatalf("waited %s for %s; events: %q", waitLimit, what, r.events[max(0, len(r.events)-20):])
		}
		r.cond.Wait()
	}
}

func (r *record) last(uid types.UID) v1.PodStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status[uid]
}

// bed is one host: containerd, network and a runner on them.
type bed struct {
	*record
	t        testing.TB
	ctrd     *testbed.Containerd
	network  *testbed.Network
	runtimes []string // as given to runtimes.Parse
	security oci.Security
	objects  *objects
	dir      string
	cgroup   string
	runner   *Runner
	cancel   context.CancelFunc
	done     chan error
}

func newBed(t testing.TB) *bed {
	t.Helper()
	b := &bed{
		record: newRecord(), t: t, ctrd: testbed.StartContainerd(t), dir: t.TempDir(),
		objects: &objects{configMaps: map[string]*v1.ConfigMap{}, secrets: map[string]*v1.Secret{}},
	}
	b.cgroup = fmt.Sprintf("/shoalrun%d", os.Getpid())
	b.network = &testbed.Network{Dir: filepath.Join(b.dir, "net"), Prefix: "srt"}
	ctx := namespaces.WithNamespace(context.Background(), testbed.Namespace)
	store := image.New(b.ctrd.Client, "overlayfs")
	if _, err := store.Import(ctx, bytes.NewReader(testbed.Archive(t, "box:latest")), func(image.Progress) {}); err != nil {
		t.Fatalf("import test image: %v", err)
	}
	b.start()
	t.Cleanup(b.finish)
	return b
}

// start makes a runner and runs it, as a daemon's start does.
func (b *bed) start() {
	b.t.Helper()
	groups, err := cgroup.Open(b.cgroup)
	if err != nil {
		b.t.Fatal(err)
	}
	volumes, err := volume.Open(b.dir, b.objects)
	if err != nil {
		b.t.Fatal(err)
	}
	volumes.Allocatable = func() v1.ResourceList { return v1.ResourceList{v1.ResourceCPU: resource.MustParse("7")} }
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	others, err := runtimes.Parse(b.runtimes)
	if err != nil {
		b.t.Fatal(err)
	}
	b.runner, err = New(Options{
		Runtimes: others, Security: b.security,
		Client: b.ctrd.Client, Namespace: testbed.Namespace, Images: image.New(b.ctrd.Client, "overlayfs"),
		Cgroups: groups, Volumes: volumes, Network: b.network, Source: b.objects, Sink: b.record,
		DataDir: b.dir, LogDir: filepath.Join(b.dir, "logs"), LogWriter: self, NodeName: "n1",
		NodeIPs: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.1")} }, PodPIDs: podPIDs,
		Logger: slog.New(slog.NewTextHandler(b.t.Output(), nil)),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel, b.done = cancel, make(chan error, 1)
	ready := make(chan struct{})
	go func() { b.done <- b.runner.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-b.done:
		b.t.Fatalf("run: %v", err)
	}
}

// stop ends the runner and leaves pods running.
func (b *bed) stop() {
	b.t.Helper()
	b.cancel()
	if err := <-b.done; err != nil {
		b.t.Errorf("run: %v", err)
	}
}

func (b *bed) finish() {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	if err := b.runner.StopAll(ctx); err != nil {
		b.t.Error(err)
	}
	b.stop()
	for _, f := range []func() error{b.runner.Close, b.runner.Volumes.Close, b.runner.Cgroups.RemoveRoot} {
		if err := f(); err != nil {
			b.t.Error(err)
		}
	}
}

// pod makes a pod of one container that runs script.
func pod(name, script string, change ...func(*v1.Pod)) *v1.Pod {
	grace := int64(1)
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "test", UID: uuid.NewUUID(), Generation: 1},
		Spec: v1.PodSpec{
			NodeName: "n1", RestartPolicy: v1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace,
			DNSPolicy: v1.DNSDefault,
			Containers: []v1.Container{{
				Name: "main", Image: "box", ImagePullPolicy: v1.PullIfNotPresent,
				Command: []string{"/bin/sh", "-c", script},
			}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// sleeper ends at once when told to stop.
const sleeper = `trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done`

func (b *bed) phase(p *v1.Pod, want v1.PodPhase) {
	b.t.Helper()
	b.until(b.t, p.Name+" "+string(want), func() bool { return b.status[p.UID].Phase == want })
}

// remove deletes the pod as the API would and waits until it is gone.
func (b *bed) remove(pods ...*v1.Pod) {
	b.t.Helper()
	for _, p := range pods {
		deleted := p.DeepCopy()
		at := metav1.Now()
		deleted.DeletionTimestamp = &at
		deleted.DeletionGracePeriodSeconds = p.Spec.TerminationGracePeriodSeconds
		b.runner.Set(deleted)
	}
	for _, p := range pods {
		b.until(b.t, p.Name+" gone", func() bool { return b.gone[p.UID] })
	}
}

// logs reads what a container has written.
func (b *bed) logs(p *v1.Pod, container string, attempt int32) string {
	data, err := os.ReadFile(LogPath(filepath.Join(b.dir, "logs"), p, container, attempt))
	if err != nil {
		b.t.Errorf("read logs: %v", err)
	}
	return string(data)
}

// logged waits until a text is in what a container has written, which its log has a
// little later.
func (b *bed) logged(p *v1.Pod, container string, attempt int32, text string) {
	b.t.Helper()
	waitFor(b.t, fmt.Sprintf("%q in the log of %s, attempt %d", text, p.Name, attempt), func() bool {
		return strings.Contains(b.logs(p, container, attempt), text)
	})
}

// with is the bed for a subtest.
func (b *bed) with(t *testing.T) *bed {
	c := *b
	c.t = t
	return &c
}

// status waits until the pod's status is as ok wants, and gives it.
func (b *bed) wait(p *v1.Pod, what string, ok func(v1.PodStatus) bool) v1.PodStatus {
	b.t.Helper()
	b.until(b.t, p.Name+" "+what, func() bool { return ok(b.status[p.UID]) })
	return b.last(p.UID)
}

// container waits until a container's status is as ok wants.
func (b *bed) container(p *v1.Pod, name, what string, ok func(v1.ContainerStatus) bool) v1.ContainerStatus {
	b.t.Helper()
	var found v1.ContainerStatus
	b.wait(p, name+" "+what, func(s v1.PodStatus) bool {
		for _, c := range slices.Concat(s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses) {
			if c.Name == name && ok(c) {
				found = c
				return true
			}
		}
		return false
	})
	return found
}

func waitingFor(reason string) func(v1.ContainerStatus) bool {
	return func(c v1.ContainerStatus) bool { return c.State.Waiting != nil && c.State.Waiting.Reason == reason }
}

// event waits for an event of the pod with the reason.
func (b *bed) event(p *v1.Pod, reason string) string {
	b.t.Helper()
	found := ""
	b.until(b.t, "event "+reason+" of "+p.Name, func() bool {
		for _, e := range b.events {
			if strings.HasPrefix(e, p.Name+" "+reason+": ") {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// atContainer checks that events which the pod has had name its main container.
func (b *bed) atContainer(p *v1.Pod, reasons ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, reason := range reasons {
		if field := b.fields[p.Name+" "+reason]; field != "spec.containers{main}" {
			b.t.Errorf("event %s of %s is of %q", reason, p.Name, field)
		}
	}
}

// run gives the output of a command in the pod's container.
func (b *bed) run(p *v1.Pod, command ...string) string {
	b.t.Helper()
	ref, ok := b.runner.Container(p.UID, "main")
	if !ok {
		b.t.Fatalf("pod %s has no container", p.Name)
	}
	code, out, err := b.runner.execOutput(context.Background(), ref.ID, command, waitLimit)
	if err != nil || code != 0 {
		b.t.Errorf("%q: code %d, %v, output %q", command, code, err, out)
	}
	return out
}
