package sched

import (
	"fmt"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/sched/internal/testpeer"
)

// priorityClass makes one, and waits until admission knows it.
func priorityClass(t *testing.T, ns string, class *schedulingv1.PriorityClass) string {
	t.Helper()
	if _, err := peer.Client.SchedulingV1().PriorityClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		try := newPod("try", "nowhere", 0)
		try.Spec.PriorityClassName = class.Name
		_, err := peer.Client.CoreV1().Pods(ns).Create(t.Context(), try, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return err.Error()
		}
		return ""
	})
	return class.Name
}

// ranked is a pod of a priority, on a node of the test's own.
func ranked(t *testing.T, ns, name, on string, cpus int64, priority int32) *v1.Pod {
	t.Helper()
	pod := newPod(name, on, cpus)
	pod.Spec.PriorityClassName = priorityClass(t, ns, &schedulingv1.PriorityClass{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("test-%d", priority)}, Value: priority})
	pod.Labels = map[string]string{"name": name}
	return pod
}

// awaitLeaving waits until a pod is being deleted for another.
func awaitLeaving(t *testing.T, ns, name string) {
	t.Helper()
	testpeer.Eventually(t, func() string {
		pod := get(t, ns, name)
		told := slices.ContainsFunc(pod.Status.Conditions, func(c v1.PodCondition) bool {
			return c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonPreemptionByScheduler
		})
		if pod.DeletionTimestamp == nil || !told {
			return fmt.Sprintf("pod %s is not being preempted: %+v", name, pod.Status.Conditions)
		}
		return ""
	})
}

// end does what the host does when a pod that is being deleted has ended.
func end(t *testing.T, ns, name string) {
	t.Helper()
	if err := peer.Client.CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
}

func TestLowerPriorityMakesRoom(t *testing.T) {
	ns := namespace(t)
	peer.Node(t, "crowded", map[v1.ResourceName]string{"cpu": "2", "memory": "1Gi", "pods": "10"})
	for _, pod := range []*v1.Pod{ranked(t, ns, "low", "crowded", 1, 1), ranked(t, ns, "middle", "crowded", 1, 5)} {
		create(t, ns, pod)
		awaitNode(t, ns, pod.Name, "crowded")
	}
	high := create(t, ns, ranked(t, ns, "high", "crowded", 1, 10))
	awaitLeaving(t, ns, "low")
	awaitEvent(t, ns, "low", "Preempted", "Preempted by pod "+string(high.UID)+" on node crowded")
	testpeer.Eventually(t, func() string {
		if node := get(t, ns, "high").Status.NominatedNodeName; node != "crowded" {
			return fmt.Sprintf("the pod is promised node %q", node)
		}
		return ""
	})
	// It waits for the pod that leaves, and has no other go, although it is tried
	// again: it is told that it waits.
	create(t, ns, ranked(t, ns, "passing", "crowded", 0, 1))
	awaitNode(t, ns, "passing", "crowded")
	end(t, ns, "passing")
	awaitUnschedulable(t, ns, "high", "not eligible due to a terminating pod on the nominated node")
	// What the victim leaves is not for others.
	create(t, ns, ranked(t, ns, "late", "crowded", 1, 1))
	awaitUnschedulable(t, ns, "late", "preemption: 0/1 nodes are available: 1 No preemption victims found")
	end(t, ns, "low")
	awaitNode(t, ns, "high", "crowded")
	if middle := get(t, ns, "middle"); middle.DeletionTimestamp != nil {
		t.Error("a pod was preempted that need not have been")
	}
	if late := get(t, ns, "late"); late.Spec.NodeName != "" {
		t.Errorf("a pod of low priority took the room on %s", late.Spec.NodeName)
	}
}

func TestNobodyGoesForAPodThatNeverPreempts(t *testing.T) {
	ns := namespace(t)
	peer.Node(t, "polite", map[v1.ResourceName]string{"cpu": "1", "memory": "1Gi", "pods": "10"})
	create(t, ns, ranked(t, ns, "low", "polite", 1, 1))
	awaitNode(t, ns, "low", "polite")
	waits := newPod("waits", "polite", 1)
	waits.Spec.PriorityClassName = priorityClass(t, ns, &schedulingv1.PriorityClass{
		ObjectMeta: metav1.ObjectMeta{Name: "polite"}, Value: 100, PreemptionPolicy: new(v1.PreemptNever)})
	create(t, ns, waits)
	awaitUnschedulable(t, ns, "waits", "preemption: not eligible due to preemptionPolicy=Never.")
	if get(t, ns, "low").DeletionTimestamp != nil {
		t.Error("a pod was preempted all the same")
	}
}

func TestADisruptionBudgetSpares(t *testing.T) {
	ns := namespace(t)
	peer.Node(t, "budgeted", map[v1.ResourceName]string{"cpu": "2", "memory": "1Gi", "pods": "10"})
	for _, pod := range []*v1.Pod{ranked(t, ns, "protected", "budgeted", 1, 1), ranked(t, ns, "free", "budgeted", 1, 5)} {
		create(t, ns, pod)
		awaitNode(t, ns, pod.Name, "budgeted")
	}
	// No controller counts here: nothing is allowed.
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"name": "protected"}},
	}}
	if _, err := peer.Client.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	high := ranked(t, ns, "high", "budgeted", 1, 10)
	testpeer.Eventually(t, func() string {
		asked := high.DeepCopy()
		asked.Namespace, asked.Spec.Priority = ns, new(int32(10))
		s := running.Load()
		s.mu.Lock()
		defer s.mu.Unlock()
		p := s.snapshot.Preempt(asked, s.snapshot.Place(asked).Diagnosis)
		if len(p.Victims) != 1 || p.Victims[0].Name != "free" {
			return fmt.Sprintf("the scheduler has not heard of the budget: %+v", p)
		}
		return ""
	})
	create(t, ns, high)
	awaitLeaving(t, ns, "free")
	if get(t, ns, "protected").DeletionTimestamp != nil {
		t.Error("a pod was preempted that its budget protects, and another would have done")
	}
	end(t, ns, "free")
	awaitNode(t, ns, "high", "budgeted")
}

// A pod that was promised a node loses it to a more important one, and its status
// says so.
func TestAPromiseIsTakenByTheMoreImportant(t *testing.T) {
	ns := namespace(t)
	peer.Node(t, "promised", map[v1.ResourceName]string{"cpu": "1", "memory": "1Gi", "pods": "10"})
	create(t, ns, ranked(t, ns, "low", "promised", 1, 1))
	awaitNode(t, ns, "low", "promised")
	awaitPromise := func(name, node string) {
		t.Helper()
		testpeer.Eventually(t, func() string {
			if has := get(t, ns, name).Status.NominatedNodeName; has != node {
				return fmt.Sprintf("pod %s is promised node %q, want %q", name, has, node)
			}
			return ""
		})
	}
	create(t, ns, ranked(t, ns, "high", "promised", 1, 10))
	awaitPromise("high", "promised")
	awaitLeaving(t, ns, "low")
	create(t, ns, ranked(t, ns, "highest", "promised", 1, 20))
	awaitPromise("highest", "promised")
	awaitPromise("high", "")
	end(t, ns, "low")
	awaitNode(t, ns, "highest", "promised")
	awaitUnschedulable(t, ns, "high", "1 No preemption victims found for incoming pod")
}
