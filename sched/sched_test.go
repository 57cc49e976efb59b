package sched

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"shoal/sched/internal/testpeer"
)

// newPod asks for whole CPUs of a node that carries the test's own label, so
// that tests do not take each other's room.
func newPod(name, on string, cpus int64) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PodSpec{
			NodeSelector: map[string]string{v1.LabelHostname: on},
			Containers: []v1.Container{{Name: "c", Image: "none", Resources: v1.ResourceRequirements{
				Requests: v1.ResourceList{v1.ResourceCPU: *resource.NewQuantity(cpus, resource.DecimalSI)},
			}}},
			// The default service account is another controller's to make.
			AutomountServiceAccountToken: new(bool),
		},
	}
}

func namespace(t testing.TB) string {
	t.Helper()
	ns := peer.Namespace(t)
	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := peer.Client.CoreV1().ServiceAccounts(ns).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return ns
}

func create(t testing.TB, ns string, pod *v1.Pod) *v1.Pod {
	t.Helper()
	pod, err := peer.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func get(t testing.TB, ns, name string) *v1.Pod {
	t.Helper()
	pod, err := peer.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func awaitNode(t testing.TB, ns, name, node string) {
	t.Helper()
	testpeer.Eventually(t, func() string {
		if pod := get(t, ns, name); pod.Spec.NodeName != node {
			return fmt.Sprintf("pod %s on node %q, want %q: %+v", name, pod.Spec.NodeName, node, pod.Status.Conditions)
		}
		return ""
	})
}

func scheduledCondition(pod *v1.Pod) v1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodScheduled {
			return c
		}
	}
	return v1.PodCondition{}
}

func awaitUnschedulable(t testing.TB, ns, name, message string) {
	t.Helper()
	testpeer.Eventually(t, func() string {
		c := scheduledCondition(get(t, ns, name))
		if c.Status != v1.ConditionFalse || c.Reason != v1.PodReasonUnschedulable || !strings.Contains(c.Message, message) {
			return fmt.Sprintf("pod %s has condition %+v, want Unschedulable with %q", name, c, message)
		}
		return ""
	})
}

func awaitEvent(t testing.TB, ns, pod, reason, message string) {
	t.Helper()
	testpeer.Eventually(t, func() string {
		events, err := peer.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if e.Reason == reason && strings.Contains(e.Message, message) {
				return ""
			}
		}
		return fmt.Sprintf("no event %s with %q among %d", reason, message, len(events.Items))
	})
}

func TestAPendingPodSaysWhyAndTakesTheFirstNodeThatFits(t *testing.T) {
	ns := namespace(t)
	create(t, ns, newPod("p", "grows", 2))
	awaitUnschedulable(t, ns, "p", "nodes")
	awaitEvent(t, ns, "p", "FailedScheduling", "nodes")

	node := peer.Node(t, "grows", map[v1.ResourceName]string{"cpu": "1", "memory": "1Gi", "pods": "10"})
	awaitUnschedulable(t, ns, "p", "Insufficient cpu")

	node.Status.Allocatable = v1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi"), "pods": resource.MustParse("10")}
	if _, err := peer.Client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, ns, "p", "grows")
	awaitEvent(t, ns, "p", "Scheduled", "Successfully assigned "+ns+"/p to grows")
	if c := scheduledCondition(get(t, ns, "p")); c.Status != v1.ConditionTrue {
		t.Errorf("a bound pod has condition %+v", c)
	}
}

// The Node of a host that has just died still says that it is ready.
func TestNothingGoesToAHostThatIsGone(t *testing.T) {
	ns := namespace(t)
	var asked atomic.Int64
	gone.Store("gone", &asked)
	peer.Node(t, "gone", map[v1.ResourceName]string{"cpu": "2", "memory": "1Gi", "pods": "10"})
	create(t, ns, newPod("waits", "gone", 1))
	testpeer.Eventually(t, func() string {
		if n := asked.Load(); n < 2 {
			return fmt.Sprintf("the scheduler has asked for the host %d times", n)
		}
		return ""
	})
	if node := get(t, ns, "waits").Spec.NodeName; node != "" {
		t.Errorf("the pod is on %s, which is gone", node)
	}
	gone.Delete("gone")
	awaitNode(t, ns, "waits", "gone")
}

func TestRoomThatBecomesFreeIsUsed(t *testing.T) {
	ns := namespace(t)
	peer.Node(t, "full", map[v1.ResourceName]string{"cpu": "2", "memory": "1Gi", "pods": "10"})
	placed := newPod("placed-by-hand", "full", 2)
	placed.Spec.NodeName = "full"
	create(t, ns, placed)
	create(t, ns, newPod("waits", "full", 1))
	awaitUnschedulable(t, ns, "waits", "1 Insufficient cpu")

	done := []byte(`{"status":{"phase":"Succeeded"}}`)
	if _, err := peer.Client.CoreV1().Pods(ns).Patch(t.Context(), "placed-by-hand", types.MergePatchType, done, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, ns, "waits", "full")
}

func TestNodesNeverHoldMoreThanTheyHave(t *testing.T) {
	ns := namespace(t)
	peer.Node(t, "small", map[v1.ResourceName]string{"cpu": "8", "memory": "8Gi", "pods": "100"})
	for i := range 20 {
		create(t, ns, newPod(fmt.Sprintf("p%d", i), "small", 1))
	}
	testpeer.Eventually(t, func() string {
		pods, err := peer.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		bound, refused := 0, 0
		for i := range pods.Items {
			if pods.Items[i].Spec.NodeName != "" {
				bound++
			} else if scheduledCondition(&pods.Items[i]).Status == v1.ConditionFalse {
				refused++
			}
		}
		if bound > 8 {
			t.Fatalf("%d pods of one CPU on a node of 8", bound)
		}
		if bound != 8 || refused != 12 {
			return fmt.Sprintf("%d bound and %d refused, want 8 and 12", bound, refused)
		}
		return ""
	})
}

func TestAGateHoldsAPod(t *testing.T) {
	ns := namespace(t)
	peer.Node(t, "gated", map[v1.ResourceName]string{"cpu": "2", "memory": "1Gi", "pods": "10"})
	gated := newPod("gated", "gated", 1)
	gated.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "example.com/later"}}
	create(t, ns, gated)
	other := newPod("other", "gated", 1)
	other.Spec.SchedulerName = "somebody-else"
	create(t, ns, other)
	create(t, ns, newPod("after", "gated", 1)) // queued behind both
	awaitNode(t, ns, "after", "gated")
	pod := get(t, ns, "gated")
	if c := scheduledCondition(pod); pod.Spec.NodeName != "" || c.Reason != v1.PodReasonSchedulingGated {
		t.Errorf("a gated pod is on node %q with condition %+v", pod.Spec.NodeName, c)
	}
	if pod := get(t, ns, "other"); pod.Spec.NodeName != "" || len(pod.Status.Conditions) != 0 {
		t.Errorf("another scheduler's pod was touched: %q, %+v", pod.Spec.NodeName, pod.Status.Conditions)
	}
	open := []byte(`{"spec":{"schedulingGates":null}}`)
	if _, err := peer.Client.CoreV1().Pods(ns).Patch(t.Context(), "gated", types.MergePatchType, open, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, ns, "gated", "gated")
}

// BenchmarkBind is a pod from its creation to its node, one at a time.
func BenchmarkBind(b *testing.B) {
	ns := namespace(b)
	peer.Node(b, "bench", map[v1.ResourceName]string{"cpu": "64", "memory": "1Gi", "pods": "1000000"})
	w, err := peer.Client.CoreV1().Pods(ns).Watch(b.Context(), metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	n := 0
	for b.Loop() {
		n++
		name := fmt.Sprintf("p%d", n)
		create(b, ns, newPod(name, "bench", 0))
		for event := range w.ResultChan() {
			if pod, ok := event.Object.(*v1.Pod); ok && pod.Name == name && pod.Spec.NodeName != "" {
				break
			}
		}
	}
}

// A host's images change without anything else about it.
func TestAPodGoesWhereItsImageIs(t *testing.T) {
	ns := namespace(t)
	for _, name := range []string{"image-a", "image-b", "image-c"} {
		node := peer.Node(t, name, map[v1.ResourceName]string{"cpu": "2", "memory": "1Gi", "pods": "10"})
		node.Labels["images"] = "yes"
		if _, err := peer.Client.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"image-a", "image-c"} {
		images := fmt.Appendf(nil, `{"status":{"images":[{"names":["only-on-%s:1"],"sizeBytes":2000000000}]}}`, name)
		if _, err := peer.Client.CoreV1().Nodes().Patch(t.Context(), name, types.StrategicMergePatchType, images, metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"image-a", "image-c"} {
		pod := newPod(fmt.Sprintf("p%d", i), "", 0)
		pod.Spec.NodeSelector = map[string]string{"images": "yes"}
		pod.Spec.Containers[0].Image = "only-on-" + name + ":1"
		testpeer.Eventually(t, func() string { // the scheduler may not have heard of the image yet
			created := create(t, ns, pod)
			for created.Spec.NodeName == "" {
				created = get(t, ns, pod.Name)
			}
			if created.Spec.NodeName == name {
				return ""
			}
			if err := peer.Client.CoreV1().Pods(ns).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%s is on %s, not where its image is", pod.Name, created.Spec.NodeName)
		})
	}
}
