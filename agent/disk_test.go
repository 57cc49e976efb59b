package agent

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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
	for name, want := range map[string]string{
		"volume": `Usage of EmptyDir volume "data" exceeds the limit "10Mi". `,
		"layer":  `Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. `,
	} {
		if pod := h.phase(name, v1.PodFailed); pod.Status.Reason != "Evicted" || pod.Status.Message != want {
			t.Errorf("%s: %s: %q, want %q", name, pod.Status.Reason, pod.Status.Message, want)
		}
		h.delete(name)
	}
	h.running("modest")
	h.delete("modest")
}

// TestDiskPressure: under pressure the pod that keeps most on disk goes, and no
// other is let in.
func TestDiskPressure(t *testing.T) {
	h := newHost(t, "full", func(o *Options) {
		o.Resources = Resources{EvictionHard: "nodefs.available<99%", EvictionTransition: time.Hour}
	})
	h.condition(v1.NodeDiskPressure, v1.ConditionTrue)
	h.make("late", sleeper, func(*v1.Pod) {})
	pod := h.phase("late", v1.PodFailed)
	if pod.Status.Reason != "Evicted" || !strings.HasSuffix(pod.Status.Message, "The node had condition: [DiskPressure]. ") {
		t.Errorf("status: %s: %q", pod.Status.Reason, pod.Status.Message)
	}
	h.delete("late")
}
