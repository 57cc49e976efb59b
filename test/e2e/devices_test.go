package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	stub "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/plugin/v1beta1"
)

const widgets = "example.com/widget"

func widget(id, health string) *api.Device { return &api.Device{ID: id, Health: health} }

// startWidgets starts upstream's plugin of tests below the daemon's directory of
// plugins. A widget is /dev/null, with a file of its driver beside it.
func startWidgets(t *testing.T, devices ...*api.Device) *stub.Stub {
	t.Helper()
	driver := t.TempDir()
	if err := os.WriteFile(filepath.Join(driver, "version"), []byte("driver 7"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(daemon.DataDir, "device-plugins")
	plugin := stub.NewDevicePluginStub(klog.Background(), devices, filepath.Join(dir, "widget.sock"), widgets, false, false)
	plugin.SetAllocFunc(func(r *api.AllocateRequest, _ map[string]*api.Device) (*api.AllocateResponse, error) {
		answer := &api.AllocateResponse{}
		for _, one := range r.ContainerRequests {
			given := &api.ContainerAllocateResponse{
				Envs:   map[string]string{"WIDGETS": strings.Join(one.DevicesIds, ",")},
				Mounts: []*api.Mount{{ContainerPath: "/driver", HostPath: driver, ReadOnly: true}},
			}
			for _, id := range one.DevicesIds {
				given.Devices = append(given.Devices, &api.DeviceSpec{ContainerPath: "/dev/" + id, HostPath: "/dev/null", Permissions: "rw"})
			}
			answer.ContainerResponses = append(answer.ContainerResponses, given)
		}
		return answer, nil
	})
	if err := plugin.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plugin.Stop(klog.Background()) })
	if err := plugin.Register(t.Context(), filepath.Join(dir, "kubelet.sock"), widgets, ""); err != nil {
		t.Fatal(err)
	}
	return plugin
}

// nodeHasWidgets waits until kubectl shows so many widgets, and so many to give.
func nodeHasWidgets(t *testing.T, capacity, allocatable int) {
	t.Helper()
	eventually(t, "widgets of the node", func() error {
		name := strings.ReplaceAll(widgets, ".", `\.`)
		got := kubectl(t, "get", "node", daemon.Name, "--output",
			fmt.Sprintf(`jsonpath={.status.capacity.%s} {.status.allocatable.%s}`, name, name))
		if got != fmt.Sprintf("%d %d", capacity, allocatable) {
			return fmt.Errorf("capacity and allocatable are %q", got)
		}
		return nil
	})
}

// wantsWidgets is a pod that asks for n of them.
func wantsWidgets(name string, n int) string {
	return pod(name, fmt.Sprintf(`
  containers:
  - name: main
    image: `+busyboxImage+`
    command: [sleep, "3600"]
    resources: {limits: {%s: %d}}
`, widgets, n))
}

// TestDevicePlugin: devices that a plugin registers with the daemon are in what
// kubectl shows, the scheduler counts them, and a pod gets those it asked for.
func TestDevicePlugin(t *testing.T) {
	ns := newNamespace(t)
	plugin := startWidgets(t, widget("w1", api.Healthy), widget("w2", api.Healthy))
	nodeHasWidgets(t, 2, 2)

	waitsFor := func(name string) {
		t.Helper()
		podWhen(t, ns, name, "waits for a widget", func(p *corev1.Pod) bool {
			return p.Status.Phase == corev1.PodPending && strings.Contains(describeStates(p), "Insufficient "+widgets)
		})
	}
	apply(t, ns, wantsWidgets("both", 2))
	podWhen(t, ns, "both", "is ready", ready)
	got := kubectl(t, "exec", "--namespace", ns, "both", "--", "sh", "-c",
		`echo $WIDGETS | tr , '\n' | sort; cat /driver/version; echo; echo x > /dev/w1 && echo x > /dev/w2 && test -c /dev/w1 && test -c /dev/w2 && echo usable`)
	if got != "w1\nw2\ndriver 7\nusable\n" {
		t.Errorf("the pod has %q", got)
	}
	mentions(t, kubectl(t, "describe", "node", daemon.Name), widgets)

	// None is left until the pod has gone.
	apply(t, ns, wantsWidgets("next", 1))
	waitsFor("next")
	kubectl(t, "delete", "pod", "both", "--namespace", ns)
	podWhen(t, ns, "next", "is ready", ready)
	held := strings.TrimSpace(kubectl(t, "exec", "--namespace", ns, "next", "--", "sh", "-c", "echo $WIDGETS"))

	// The free one breaks: it is counted, and not given.
	sick := []*api.Device{widget("w1", api.Unhealthy), widget("w2", api.Unhealthy)}
	for _, device := range sick {
		if device.ID == held {
			device.Health = api.Healthy
		}
	}
	plugin.Update(sick)
	nodeHasWidgets(t, 2, 1)
	apply(t, ns, wantsWidgets("late", 1))
	waitsFor("late")
	plugin.Update([]*api.Device{widget("w1", api.Healthy), widget("w2", api.Healthy)})
	podWhen(t, ns, "late", "is ready", ready)
	if got := strings.TrimSpace(kubectl(t, "exec", "--namespace", ns, "late", "--", "sh", "-c", "echo $WIDGETS")); got == held || got == "" {
		t.Errorf("two pods hold %q and %q", held, got)
	}

	// The plugin goes: pods keep what they have, and no other gets any.
	if err := plugin.Stop(klog.Background()); err != nil {
		t.Fatal(err)
	}
	nodeHasWidgets(t, 2, 0)
	kubectl(t, "delete", "pod", "late", "--namespace", ns)
	apply(t, ns, wantsWidgets("never", 1))
	waitsFor("never")
	if next := podWhen(t, ns, "next", "is ready", ready); container(next).RestartCount != 0 {
		t.Errorf("the pod that holds a widget was restarted %d times", container(next).RestartCount)
	}
}
