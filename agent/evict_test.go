package agent

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/agent/reserve"
)

// make creates a pod of one container that runs script.
func (h *host) make(name, script string, change func(*v1.Pod)) *v1.Pod {
	h.t.Helper()
	grace := int64(1)
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PodSpec{
			NodeName: h.name, TerminationGracePeriodSeconds: &grace,
			Containers: []v1.Container{{Name: "main", Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"sh", "-c", script}}},
		},
	}
	change(pod)
	pod, err := peer.Client.CoreV1().Pods("default").Create(context.Background(), pod, metav1.CreateOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	return pod
}

// phase waits for the pod to be in a phase.
func (h *host) phase(name string, want v1.PodPhase) *v1.Pod {
	h.t.Helper()
	var pod *v1.Pod
	h.eventually(name+" to be "+string(want), func() bool {
		var err error
		pod, err = peer.Client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == want
	})
	return pod
}

func (h *host) condition(kind v1.NodeConditionType, want v1.ConditionStatus) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("%s to be %s", kind, want), func() bool {
		for _, c := range h.node(v1.ConditionTrue).Status.Conditions {
			if c.Type == kind && c.Status == want {
				return true
			}
		}
		return false
	})
}

func (h *host) event(object, reason string) string {
	h.t.Helper()
	message := ""
	h.eventually("event "+reason+" of "+object, func() bool {
		list, err := peer.Client.CoreV1().Events("").List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + object + ",reason=" + reason})
		if err != nil || len(list.Items) == 0 {
			return false
		}
		message = list.Items[0].Message
		return true
	})
	return message
}

func quantity(text string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceMemory: resource.MustParse(text), v1.ResourceCPU: resource.MustParse("10m")}
}

// ramDisk is a volume in memory, whose content counts as the pod's memory.
func ramDisk(p *v1.Pod) {
	p.Spec.Volumes = []v1.Volume{{Name: "ram", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}}}
	p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "ram", MountPath: "/ram"}}
}

// TestMemoryPressure: of three pods in a host's last memory, the one that uses
// what it did not ask for goes, and no other.
func TestMemoryPressure(t *testing.T) {
	memory := reserve.Capacity(t.TempDir(), 1)[v1.ResourceMemory]
	h := newHost(t, "tight", func(o *Options) {
		// 300 MiB for pods, of which 100 are to stay free.
		o.Resources = Resources{
			Reserved:     fmt.Sprintf("memory=%d", memory.Value()-300<<20),
			EvictionHard: "memory.available<100Mi", EvictionTransition: time.Second,
		}
	})
	if got := h.node(v1.ConditionTrue).Status.Allocatable[v1.ResourceMemory]; got.Value() != 200<<20 {
		t.Errorf("allocatable memory is %s", got.String())
	}
	h.make("calm", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Requests, p.Spec.Containers[0].Resources.Limits = quantity("32Mi"), quantity("32Mi")
	})
	h.make("entitled", `dd if=/dev/zero of=/ram/x bs=1M count=60; `+sleeper, func(p *v1.Pod) {
		ramDisk(p)
		p.Spec.Containers[0].Resources.Requests = quantity("90Mi")
	})
	h.running("calm")
	h.running("entitled")
	h.make("hog", `dd if=/dev/zero of=/ram/x bs=1M count=150; `+sleeper, ramDisk)
	pod := h.phase("hog", v1.PodFailed)
	if pod.Status.Reason != "Evicted" || !strings.HasPrefix(pod.Status.Message, "The node was low on resource: memory. Threshold quantity: 100Mi, available: ") ||
		!strings.Contains(pod.Status.Message, "Container main was using ") || !strings.Contains(pod.Status.Message, "request is 0, has larger consumption of memory. ") {
		t.Errorf("status: %s: %s", pod.Status.Reason, pod.Status.Message)
	}
	disrupted := false
	for _, c := range pod.Status.Conditions {
		disrupted = disrupted || c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == "TerminationByKubelet" && c.Message == pod.Status.Message
	}
	if !disrupted {
		t.Errorf("conditions: %+v", pod.Status.Conditions)
	}
	if got := h.event("hog", "Evicted"); got != pod.Status.Message {
		t.Errorf("event: %s", got)
	}
	if got := h.event("tight", "EvictionThresholdMet"); got != "Attempting to reclaim memory" {
		t.Errorf("event of the node: %s", got)
	}
	h.condition(v1.NodeMemoryPressure, v1.ConditionFalse)
	for _, name := range []string{"calm", "entitled"} {
		if p := h.running(name); p.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("%s was hit: %+v", name, p.Status)
		}
		h.delete(name)
	}
	h.delete("hog")
}
