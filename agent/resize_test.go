package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/agent/reserve"
)

// cpuMemory is quantities of these two.
func cpuMemory(cpu, memory string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
}

// resizePod asks for other resources of the pod's container, as kubectl does.
func (h *host) resizePod(name string, requests, limits v1.ResourceList) {
	h.t.Helper()
	pods := peer.Client.CoreV1().Pods("default")
	h.eventually("resize of "+name+" to be taken", func() bool {
		pod, err := pods.Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			return false
		}
		pod.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: requests, Limits: limits}
		_, err = pods.UpdateResize(context.Background(), name, pod, metav1.UpdateOptions{})
		return err == nil
	})
}

// has waits until the pod's status says that its container has these limits,
// with no resize left to do.
func (h *host) has(name string, limits v1.ResourceList) *v1.Pod {
	h.t.Helper()
	var pod *v1.Pod
	defer func() {
		if h.t.Failed() {
			h.t.Logf("%s: wants %+v, has %+v", name, pod.Spec.Containers[0].Resources, pod.Status)
		}
	}()
	h.eventually(fmt.Sprintf("%s to have %v", name, limits), func() bool {
		var err error
		pod, err = peer.Client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		if err != nil || len(pod.Status.ContainerStatuses) != 1 || resizeCondition(pod, v1.PodResizeInProgress) != nil || resizeCondition(pod, v1.PodResizePending) != nil {
			return false
		}
		c := pod.Status.ContainerStatuses[0]
		return c.State.Running != nil && c.Resources != nil &&
			c.Resources.Limits.Cpu().Cmp(*limits.Cpu()) == 0 && c.Resources.Limits.Memory().Cmp(*limits.Memory()) == 0
	})
	return pod
}

func resizeCondition(pod *v1.Pod, kind v1.PodConditionType) *v1.PodCondition {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == kind && c.Status == v1.ConditionTrue {
			return c
		}
	}
	return nil
}

// groupHas compares what the kernel holds the pod and its container to.
func (h *host) groupHas(pod *v1.Pod, shares, quota, memory string) {
	h.t.Helper()
	if h.agent.cgroups.Unified() {
		return // which files those are has a test of its own
	}
	group := h.agent.cgroups.PodPath(v1.PodQOSBurstable, string(pod.UID))
	id := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
	for _, dir := range []string{group, filepath.Join(group, id)} {
		for file, want := range map[string]string{"cpu/%/cpu.shares": shares, "cpu/%/cpu.cfs_quota_us": quota, "memory/%/memory.limit_in_bytes": memory} {
			data, err := os.ReadFile("/sys/fs/cgroup/" + strings.Replace(file, "%", dir, 1))
			if err != nil || strings.TrimSpace(string(data)) != want {
				h.t.Errorf("%s of %s is %q (%v), want %s", file, dir, data, err, want)
			}
		}
	}
}

func (h *host) resizable(name, script, cpu string, change func(*v1.Pod)) {
	h.t.Helper()
	h.make(name, script, func(p *v1.Pod) {
		ramDisk(p)
		p.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: cpuMemory(cpu, "32Mi"), Limits: cpuMemory("500m", "64Mi")}
		if change != nil {
			change(p)
		}
	})
}

// TestResize resizes running pods in place.
func TestResize(t *testing.T) {
	cpu := reserve.Capacity(t.TempDir(), 1)[v1.ResourceCPU]
	h := newHost(t, "sized", func(o *Options) {
		o.Resources.Reserved = fmt.Sprintf("cpu=%dm", cpu.MilliValue()-1000) // one is left
	})
	h.resizable("one", `dd if=/dev/zero of=/ram/x bs=1M count=40; `+sleeper, "200m", nil)
	h.running("one")
	pod := h.has("one", cpuMemory("500m", "64Mi"))
	if got := pod.Status.ContainerStatuses[0].AllocatedResources; got.Cpu().MilliValue() != 200 || pod.Status.AllocatedResources.Cpu().MilliValue() != 200 {
		t.Errorf("allocated: %v, pod %v", got, pod.Status.AllocatedResources)
	}
	h.groupHas(pod, "204", "50000", "67108864")

	h.resizePod("one", cpuMemory("300m", "64Mi"), cpuMemory("700m", "128Mi"))
	pod = h.has("one", cpuMemory("700m", "128Mi"))
	h.groupHas(pod, "307", "70000", "134217728")
	h.event("one", "ResizeStarted")
	if got := h.event("one", "ResizeCompleted"); !strings.HasPrefix(got, `Pod resize completed: {"containers":[{"name":"main"`) {
		t.Errorf("event: %s", got)
	}
	if n := pod.Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("restarted %d times", n)
	}
	h.belowUsage()
	h.deferred()
	h.restarted()
	h.delete("one")
}

// belowUsage asks for a memory limit below what is in use.
func (h *host) belowUsage() {
	h.t.Helper()
	h.resizePod("one", cpuMemory("300m", "16Mi"), cpuMemory("700m", "16Mi"))
	h.eventually("the refusal", func() bool {
		pod, err := peer.Client.CoreV1().Pods("default").Get(context.Background(), "one", metav1.GetOptions{})
		if err != nil {
			return false
		}
		c := resizeCondition(pod, v1.PodResizeInProgress)
		return c != nil && c.Reason == v1.PodReasonError && strings.HasPrefix(c.Message, "cannot decrease memory limits: [attempting to set pod memory limit (16777216) below current usage (")
	})
	h.event("one", "ResizeError")
	h.resizePod("one", cpuMemory("300m", "32Mi"), cpuMemory("700m", "96Mi"))
	pod := h.has("one", cpuMemory("700m", "96Mi"))
	h.groupHas(pod, "307", "70000", "100663296")
}

// deferred asks for more than there is, and gets it when another pod goes. The
// daemon is restarted meanwhile.
func (h *host) deferred() {
	h.t.Helper()
	h.resizable("two", sleeper, "400m", nil)
	h.running("two")
	h.resizePod("one", cpuMemory("800m", "32Mi"), cpuMemory("900m", "96Mi"))
	waits := func() {
		h.t.Helper()
		h.eventually("the resize to wait", func() bool {
			pod, err := peer.Client.CoreV1().Pods("default").Get(context.Background(), "one", metav1.GetOptions{})
			if err != nil {
				return false
			}
			c := resizeCondition(pod, v1.PodResizePending)
			return c != nil && c.Reason == v1.PodReasonDeferred && c.Message == "Node didn't have enough resource: cpu, requested: 800, used: 400, capacity: 1000" &&
				pod.Status.ContainerStatuses[0].Resources.Limits.Cpu().MilliValue() == 700 && pod.Status.ContainerStatuses[0].AllocatedResources.Cpu().MilliValue() == 300
		})
	}
	waits()
	h.event("one", "ResizeDeferred")
	h.stop()
	h.start()
	waits()
	h.delete("two")
	pod := h.has("one", cpuMemory("900m", "96Mi"))
	h.groupHas(pod, "819", "90000", "100663296")
}

// restarted resizes a container whose policy is to be restarted for memory.
func (h *host) restarted() {
	h.t.Helper()
	h.resizable("three", sleeper, "100m", func(p *v1.Pod) {
		p.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}}
	})
	h.running("three")
	h.resizePod("three", cpuMemory("100m", "32Mi"), cpuMemory("400m", "64Mi"))
	if pod := h.has("three", cpuMemory("400m", "64Mi")); pod.Status.ContainerStatuses[0].RestartCount != 0 {
		h.t.Error("restarted for its cpu")
	}
	h.resizePod("three", cpuMemory("100m", "32Mi"), cpuMemory("400m", "80Mi"))
	pod := h.has("three", cpuMemory("400m", "80Mi"))
	if pod.Status.ContainerStatuses[0].RestartCount != 1 {
		h.t.Errorf("restarted %d times for its memory", pod.Status.ContainerStatuses[0].RestartCount)
	}
	h.groupHas(pod, "102", "40000", "83886080")
	h.delete("three")
}
