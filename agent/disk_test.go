package agent

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"shoal/agent/internal/testbed"
)

// diskVolume is a volume on disk, of at most that size if there is a limit.
func diskVolume(p *v1.Pod, limit *resource.Quantity) {
	p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: limit}}}}
	p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
}

// TestStorageLimits: who keeps more on disk than it may is evicted, also when
// there is plenty.
func TestStorageLimits(t *testing.T) {
	h := newHost(t, "kept")
	ten := resource.MustParse("10Mi")
	h.make("modest", `dd if=/dev/zero of=/data/x bs=1M count=1; `+sleeper, func(p *v1.Pod) { diskVolume(p, &ten) })
	h.make("volume", `dd if=/dev/zero of=/data/x bs=1M count=20; `+sleeper, func(p *v1.Pod) { diskVolume(p, &ten) })
	h.make("layer", `dd if=/dev/zero of=/tmp/x bs=1M count=20; `+sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: ten}
	})
	for name, file := range map[string]string{"names": "/etc/hosts", "words": "/dev/termination-log"} {
		h.make(name, `dd if=/dev/zero bs=1M count=20 >>`+file+`; `+sleeper, func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: ten}
		})
	}
	const total = `Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. `
	for name, want := range map[string]string{
		"volume": `Usage of EmptyDir volume "data" exceeds the limit "10Mi". `,
		"layer":  total, "names": total, "words": total,
	} {
		if pod := h.phase(name, v1.PodFailed); pod.Status.Reason != "Evicted" || pod.Status.Message != want {
			t.Errorf("%s: %s: %q, want %q", name, pod.Status.Reason, pod.Status.Message, want)
		}
		h.delete(name)
	}
	h.running("modest")
	h.delete("modest")
}

// TestDiskPressure: what nothing uses goes first; then the pod that keeps most on
// disk goes, and no other.
func TestDiskPressure(t *testing.T) {
	h := newHostOn(t, "128M", "full", func(o *Options) {
		o.Resources = Resources{EvictionHard: "imagefs.available<80Mi", EvictionTransition: time.Second}
		o.Images.CollectAge = -1
	})
	fill := func(megabytes string) string {
		return "dd if=/dev/urandom of=/tmp/x bs=1M count=" + megabytes + "; " + sleeper
	}
	h.make("calm", sleeper, func(*v1.Pod) {})
	h.make("some", fill("20"), func(*v1.Pod) {})
	h.running("calm")
	h.running("some")

	// It leaves enough room, or its own unpacking, when it is in use, would press.
	noise := make([]byte, 9<<20) // on disk twice: as a layer and unpacked
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	reg := testbed.StartRegistry(t, false) // what is loaded by hand would stay
	reg.Push(t, "x/unused:v1", "amd64", testbed.LayerOf(t, "noise", noise))
	ctx := namespaces.WithNamespace(t.Context(), testbed.Namespace)
	if _, err := h.agent.images.Pull(ctx, reg.Host+"/x/unused:v1", nil, nil); err != nil {
		t.Fatal(err)
	}
	h.make("more", fill("12"), func(*v1.Pod) {})
	h.eventually("the unused image to go", func() bool {
		return !strings.Contains(h.request(http.MethodGet, imagesPath, nil, http.StatusOK), "unused:v1")
	})
	h.event("full", "NodeHasDiskPressure") // which may be over by now
	h.condition(v1.NodeDiskPressure, v1.ConditionFalse)

	h.make("most", fill("40"), func(*v1.Pod) {})
	if s := h.phase("most", v1.PodFailed).Status; s.Reason != "Evicted" ||
		!strings.HasPrefix(s.Message, "The node was low on resource: ephemeral-storage. Threshold quantity: 80Mi, available: ") {
		t.Errorf("status: %s: %q", s.Reason, s.Message)
	}
	h.condition(v1.NodeDiskPressure, v1.ConditionFalse)
	for _, name := range []string{"calm", "some", "more"} {
		if p := h.running(name); p.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("%s was hit: %+v", name, p.Status)
		}
		h.delete(name)
	}
	h.delete("most")
}

// TestNoneUnderDiskPressure: no pod is let in, and an idle monitor and one that
// stops say nothing of themselves.
func TestNoneUnderDiskPressure(t *testing.T) {
	log := &screen{}
	h := newHost(t, "crowded", func(o *Options) {
		o.Resources = Resources{EvictionHard: "nodefs.available<1Ei,nodefs.inodesFree<1%", EvictionTransition: time.Hour}
		o.Logger = slog.New(slog.NewTextHandler(io.MultiWriter(log, t.Output()), nil))
	})
	h.condition(v1.NodeDiskPressure, v1.ConditionTrue)
	h.make("late", sleeper, func(*v1.Pod) {})
	pod := h.phase("late", v1.PodFailed)
	if pod.Status.Reason != "Evicted" || !strings.HasSuffix(pod.Status.Message, "The node had condition: [DiskPressure]. ") {
		t.Errorf("status: %s: %q", pod.Status.Reason, pod.Status.Message)
	}
	h.delete("late")
	h.stop()
	for _, noise := range []string{"no observation found", "control loop", "monitoring loop", "context canceled"} {
		if log.has(noise) {
			t.Errorf("the log has %q", noise)
		}
	}
}
