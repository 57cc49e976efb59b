package agent

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	stub "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/plugin/v1beta1"
)

const dongles = v1.ResourceName("example.com/dongle")

// maker is a device plugin: upstream's, with dongles that are /dev/null.
type maker struct {
	t      *testing.T
	dir    string
	socket string
	plugin *stub.Stub

	mu        sync.Mutex
	allocated []string // guarded by mu
}

func (h *host) withDevices(o *Options) { o.DevicePluginDir = filepath.Join(o.DataDir, "plugins") }

// newMaker registers a plugin that has the devices named; those that begin with
// "bad" are unhealthy.
func newMaker(h *host, ids ...string) *maker {
	t := h.t.(*testing.T)
	t.Helper()
	m := &maker{t: t, dir: h.options.DevicePluginDir}
	m.socket = filepath.Join(m.dir, "dongle.sock")
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "driver"), []byte("driver 1.0"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.plugin = stub.NewDevicePluginStub(klog.Background(), dongle(ids...), m.socket, string(dongles), true, true)
	m.plugin.SetAllocFunc(func(r *api.AllocateRequest, _ map[string]*api.Device) (*api.AllocateResponse, error) {
		ids := r.ContainerRequests[0].DevicesIds
		m.mu.Lock()
		defer m.mu.Unlock()
		m.allocated = append(m.allocated, ids...)
		answer := &api.ContainerAllocateResponse{
			Envs:        map[string]string{"DONGLES": strings.Join(ids, ",")},
			Mounts:      []*api.Mount{{ContainerPath: "/driver", HostPath: shared, ReadOnly: true}},
			Annotations: map[string]string{"example.com/made-by": "plugin"},
		}
		for _, id := range ids {
			if strings.HasPrefix(id, "cdi") {
				answer.CdiDevices = append(answer.CdiDevices, &api.CDIDevice{Name: "example.com/dongle=" + id})
				continue
			}
			answer.Devices = append(answer.Devices, &api.DeviceSpec{ContainerPath: "/dev/" + id, HostPath: "/dev/null", Permissions: "rw"})
		}
		return &api.AllocateResponse{ContainerResponses: []*api.ContainerAllocateResponse{answer}}, nil
	})
	// The last of those that are free is the one it likes.
	m.plugin.SetGetPreferredAllocFunc(func(r *api.PreferredAllocationRequest, _ map[string]*api.Device) (*api.PreferredAllocationResponse, error) {
		one := r.ContainerRequests[0]
		free := slices.Sorted(slices.Values(one.AvailableDeviceIDs))
		return &api.PreferredAllocationResponse{ContainerResponses: []*api.ContainerPreferredAllocationResponse{
			{DeviceIDs: free[len(free)-int(one.AllocationSize):]}}}, nil
	})
	if err := m.plugin.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.plugin.Stop(klog.Background()) })
	m.register()
	return m
}

func dongle(ids ...string) []*api.Device {
	var out []*api.Device
	for _, id := range ids {
		d := &api.Device{ID: id, Health: api.Healthy}
		if strings.HasPrefix(id, "bad") {
			d = &api.Device{ID: strings.TrimPrefix(id, "bad"), Health: api.Unhealthy}
		}
		out = append(out, d)
	}
	return out
}

func (m *maker) register() {
	m.t.Helper()
	if err := m.plugin.Register(m.t.Context(), filepath.Join(m.dir, "kubelet.sock"), string(dongles), ""); err != nil {
		m.t.Fatal(err)
	}
}

// restart is what a plugin does when it sees a new kubelet.sock.
func (m *maker) restart() {
	m.t.Helper()
	if err := m.plugin.Restart(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	m.register()
}

func (m *maker) handedOut() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.allocated)
}

// dongles waits for the Node to have so many, and so many to give.
func (h *host) dongles(capacity, allocatable int64) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("%d dongles, %d healthy", capacity, allocatable), func() bool {
		status := h.node(v1.ConditionTrue).Status
		has, there := status.Capacity[dongles]
		left := status.Allocatable[dongles]
		return there && has.Value() == capacity && left.Value() == allocatable
	})
}

func wants(n int64) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Resources = asks(n)
	}
}

func asks(n int64) v1.ResourceRequirements {
	list := v1.ResourceList{dongles: *resource.NewQuantity(n, resource.DecimalSI)}
	return v1.ResourceRequirements{Limits: list, Requests: maps.Clone(list)}
}

// inside runs a script in a pod's main container.
func (h *host) inside(pod, script string) string {
	h.t.Helper()
	config, client := h.admin()
	out, err := h.exec(config, client, pod, nil, "sh", "-c", script)
	if err != nil {
		h.t.Errorf("%s: %s: %v", pod, out, err)
	}
	return strings.TrimSpace(out)
}

// TestDevicePlugin goes the life of devices: registered, given, said to be
// broken, kept over a restart of the daemon, and free again.
func TestDevicePlugin(t *testing.T) {
	h := newHost(t, "devices", (*host)(nil).withDevices)
	m := newMaker(h, "d1", "d2", "d3")
	h.dongles(3, 3)

	h.make("two", sleeper, wants(2))
	h.running("two")
	if out := h.inside("two", `echo x > /dev/d2 && echo x > /dev/d3 && test -c /dev/d3 && echo $DONGLES; cat /driver/driver`); out != "d2,d3\ndriver 1.0" {
		t.Errorf("the container has %q", out)
	}
	// More than there is.
	h.make("greedy", sleeper, wants(2))
	if p := h.phase("greedy", v1.PodFailed); p.Status.Reason != "UnexpectedAdmissionError" ||
		!strings.HasSuffix(p.Status.Message, "Allocate failed due to requested number of devices unavailable for example.com/dongle. Requested: 2, Available: 1, which is unexpected") {
		t.Errorf("greedy: %s: %s", p.Status.Reason, p.Status.Message)
	}
	h.delete("greedy")

	// One breaks, and is the pod's still; the free one breaks too.
	m.plugin.Update(dongle("badd1", "d2", "badd3"))
	h.dongles(3, 1)
	h.eventually("the pod's status to tell", func() bool {
		return health(h.running("two")) == "example.com/dongle d2 Healthy d3 Unhealthy"
	})
	h.make("unlucky", sleeper, wants(1))
	if p := h.phase("unlucky", v1.PodFailed); p.Status.Reason != "UnexpectedAdmissionError" {
		t.Errorf("unlucky: %s: %s", p.Status.Reason, p.Status.Message)
	}
	h.delete("unlucky")
	m.plugin.Update(dongle("d1", "d2", "d3"))
	h.dongles(3, 3)

	h.stop()
	h.start()
	h.dongles(0, 0)
	m.restart()
	h.dongles(3, 3)
	before := m.handedOut()
	h.make("last", sleeper, wants(1))
	h.running("last")
	if out := h.inside("last", `echo $DONGLES`); out != "d1" {
		t.Errorf("after a restart %q is given, which another pod holds", out)
	}
	if n := m.handedOut(); n != before+1 {
		t.Errorf("%d devices were given anew after the restart", n-before)
	}
	h.delete("two")
	h.make("next", sleeper, wants(2))
	h.running("next")
	if out := h.inside("next", `echo $DONGLES`); out != "d2,d3" {
		t.Errorf("after the pod has gone %q is given", out)
	}
	h.delete("next")
	h.delete("last")
}

// cdiFile says what a container with the device cdi1 has.
const cdiFile = `{"cdiVersion": "0.6.0", "kind": "example.com/dongle", "devices": [
	{"name": "cdi1", "containerEdits": {"env": ["FROM_CDI=yes"], "deviceNodes": [{"path": "/dev/cdi1", "hostPath": "/dev/null", "permissions": "rw"}]}}]}`

// TestDevicesOfOnePod: init containers' devices are their followers', a container
// that restarts has what it had, and a plugin's CDI devices are there.
func TestDevicesOfOnePod(t *testing.T) {
	cdi := t.TempDir()
	if err := os.WriteFile(filepath.Join(cdi, "dongle.json"), []byte(cdiFile), 0o644); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, "devicesofone", (*host)(nil).withDevices, func(o *Options) { o.CDIDirs = []string{cdi} })
	m := newMaker(h, "cdi1")
	h.dongles(1, 1)
	h.make("reuse", `echo x > /dev/cdi1; echo "$DONGLES $FROM_CDI" >> /own/log; [ $(wc -l < /own/log) = 1 ] && exit 1; `+sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "own", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		main := &p.Spec.Containers[0]
		main.VolumeMounts = []v1.VolumeMount{{Name: "own", MountPath: "/own"}}
		wants(1)(p)
		p.Spec.InitContainers = []v1.Container{{Name: "before", Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"sh", "-c", "echo x > /dev/cdi1"}, Resources: asks(1)}}
	})
	h.eventually("the second attempt", func() bool {
		c := h.running("reuse").Status.ContainerStatuses[0]
		return c.RestartCount == 1 && c.State.Running != nil
	})
	h.eventually("the second attempt's line", func() bool { return strings.Count(h.inside("reuse", "cat /own/log"), "\n") > 0 })
	if out := h.inside("reuse", "cat /own/log"); out != "cdi1 yes\ncdi1 yes" {
		t.Errorf("the two attempts had %q", out)
	}
	if n := m.handedOut(); n != 2 { // one for each container, none for the restart
		t.Errorf("the plugin was asked %d times", n)
	}
	h.delete("reuse")

	// A name that no file has.
	if err := os.Remove(filepath.Join(cdi, "dongle.json")); err != nil {
		t.Fatal(err)
	}
	h.make("nofile", sleeper, wants(1))
	h.eventually("the pod to say what is missing", func() bool {
		pod := h.phase("nofile", v1.PodPending)
		if len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Waiting == nil {
			return false
		}
		w := pod.Status.ContainerStatuses[0].State.Waiting
		return w.Reason == "CreateContainerError" && strings.Contains(w.Message, "CDI device injection failed") && strings.Contains(w.Message, "example.com/dongle=cdi1")
	})
	h.delete("nofile")

	// The plugin dies: what it has cannot be given, and is not forgotten.
	if err := m.plugin.Stop(klog.Background()); err != nil {
		t.Fatal(err)
	}
	h.dongles(1, 0)
}

// health says what a pod's status tells of its devices.
func health(pod *v1.Pod) string {
	var out []string
	for _, s := range pod.Status.ContainerStatuses[0].AllocatedResourcesStatus {
		out = append(out, string(s.Name))
		for _, d := range s.Resources {
			out = append(out, string(d.ResourceID), string(d.Health))
		}
	}
	return strings.Join(out, " ")
}
