package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/utils/clock"

	"shoal/sched/internal/testpeer"
)

func newReplicaSet(name string, replicas int32) *apps.ReplicaSet {
	d := newDeployment(name, replicas)
	return &apps.ReplicaSet{ObjectMeta: d.ObjectMeta, Spec: apps.ReplicaSetSpec{Replicas: &replicas, Selector: d.Spec.Selector, Template: d.Spec.Template}}
}

func createReplicaSet(t *testing.T, ns string, set *apps.ReplicaSet) *apps.ReplicaSet {
	t.Helper()
	set, err := peer.Client.AppsV1().ReplicaSets(ns).Create(t.Context(), set, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func resize(t *testing.T, ns, name string, replicas int) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)
	if _, err := peer.Client.AppsV1().ReplicaSets(ns).Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func podNames(t *testing.T, ns string) []string {
	t.Helper()
	pods, err := peer.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, pod := range pods.Items {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return names
}

func expectedNames(set *apps.ReplicaSet, ordinals ...int) []string {
	var names []string
	for _, n := range ordinals {
		names = append(names, podName(set.Name, set.UID, n))
	}
	slices.Sort(names)
	return names
}

func awaitPods(t *testing.T, ns string, want []string) {
	t.Helper()
	testpeer.Eventually(t, func() string {
		if got := podNames(t, ns); !slices.Equal(got, want) {
			return fmt.Sprintf("pods %v, want %v", got, want)
		}
		return ""
	})
}

func awaitStatus(t *testing.T, ns, name, what string, check func(apps.ReplicaSetStatus) bool) {
	t.Helper()
	testpeer.Eventually(t, func() string {
		set, err := peer.Client.AppsV1().ReplicaSets(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if set.Status.ObservedGeneration != set.Generation || !check(set.Status) {
			return fmt.Sprintf("%s; status is %+v", what, set.Status)
		}
		return ""
	})
}

func TestReplicaSetNumbersItsPods(t *testing.T) {
	ns := peer.Namespace(t)
	set := createReplicaSet(t, ns, newReplicaSet("web", 3))
	awaitPods(t, ns, expectedNames(set, 0, 1, 2))

	gone := podName(set.Name, set.UID, 1)
	if err := peer.Client.CoreV1().Pods(ns).Delete(t.Context(), gone, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitPods(t, ns, expectedNames(set, 0, 2, 3))

	// The highest number's pod goes; its number is not given again.
	if err := peer.Client.CoreV1().Pods(ns).Delete(t.Context(), podName(set.Name, set.UID, 3), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitPods(t, ns, expectedNames(set, 0, 2, 4))
	awaitStatus(t, ns, "web", "3 replicas", func(s apps.ReplicaSetStatus) bool { return s.Replicas == 3 && s.FullyLabeledReplicas == 3 })

	resize(t, ns, "web", 0)
	awaitPods(t, ns, nil)
	awaitStatus(t, ns, "web", "no replicas", func(s apps.ReplicaSetStatus) bool { return s.Replicas == 0 })
}

// TestTwoLeadersMakeTheSamePods runs a second controller on the same
// ReplicaSet, as happens while a slice changes hands: no pod is ever made twice.
func TestTwoLeadersMakeTheSamePods(t *testing.T) {
	ns := peer.Namespace(t)
	startSecondLeader(t)
	pods, err := peer.Client.CoreV1().Pods(ns).Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer pods.Stop()
	set := createReplicaSet(t, ns, newReplicaSet("web", 40))
	sizes := []int{40, 10, 60, 60}
	for step, size := range sizes {
		resize(t, ns, "web", size)
		testpeer.Eventually(t, func() string {
			if n := len(podNames(t, ns)); n != size {
				return fmt.Sprintf("step %d: %d pods, want %d", step, n, size)
			}
			return ""
		})
	}
	awaitStatus(t, ns, "web", "60 replicas", func(s apps.ReplicaSetStatus) bool { return s.Replicas == 60 })
	// The watch is read up to a last pod that nobody else makes.
	last := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "last"}, Spec: set.Spec.Template.Spec}
	if _, err := peer.Client.CoreV1().Pods(ns).Create(t.Context(), last, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	added := map[string]bool{}
	for event := range pods.ResultChan() {
		pod, ok := event.Object.(*v1.Pod)
		if ok && pod.Name == last.Name {
			break
		}
		if ok && event.Type == watch.Added {
			if ordinal, ok := podOrdinal(set.Name, set.UID, pod.Name); !ok || ordinal >= 40+50 {
				t.Errorf("pod %s has number %d, more than were ever needed", pod.Name, ordinal)
			}
			if added[pod.Name] {
				t.Errorf("pod %s was made twice", pod.Name)
			}
			added[pod.Name] = true
		}
	}
	if len(added) != 40+50 {
		t.Errorf("%d pods were made, want %d", len(added), 40+50)
	}
}

func startSecondLeader(t *testing.T) {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(peer.Client, 0, informers.WithTransform(StripManagedFields))
	second, err := newReplicaSets(peer.Client, factory, peer.Log, clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	go func() { done <- second.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
}

func TestReplicaSetAdoptsAndReleases(t *testing.T) {
	ns := peer.Namespace(t)
	stray := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "stray", Labels: map[string]string{"app": "web"}}, Spec: newDeployment("web", 1).Spec.Template.Spec}
	if _, err := peer.Client.CoreV1().Pods(ns).Create(t.Context(), stray, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	set := createReplicaSet(t, ns, newReplicaSet("web", 2))
	// The set may come into sight before the stray does; then it makes a pod too
	// many and takes it back.
	testpeer.Eventually(t, func() string {
		pod, err := peer.Client.CoreV1().Pods(ns).Get(t.Context(), "stray", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if names := podNames(t, ns); len(names) != 2 || !metav1.IsControlledBy(pod, set) {
			return fmt.Sprintf("pods %v, owners of the stray %v", names, pod.OwnerReferences)
		}
		return ""
	})

	release := []byte(`{"metadata":{"labels":{"app":"debugged"}}}`)
	if _, err := peer.Client.CoreV1().Pods(ns).Patch(t.Context(), "stray", types.MergePatchType, release, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		pod, err := peer.Client.CoreV1().Pods(ns).Get(t.Context(), "stray", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if metav1.GetControllerOf(pod) != nil {
			return "the relabelled pod still has an owner"
		}
		if n := len(podNames(t, ns)); n != 3 {
			return fmt.Sprintf("%d pods, want the released one and two others", n)
		}
		return ""
	})
}

func TestRefusedPodsShowOnTheReplicaSet(t *testing.T) {
	ns := peer.Namespace(t)
	enforce := []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`)
	if _, err := peer.Client.CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, enforce, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	createReplicaSet(t, ns, newReplicaSet("web", 3))
	awaitStatus(t, ns, "web", "a condition that says why", func(s apps.ReplicaSetStatus) bool {
		return len(s.Conditions) == 1 && s.Conditions[0].Type == apps.ReplicaSetReplicaFailure &&
			s.Conditions[0].Reason == "FailedCreate" && strings.Contains(s.Conditions[0].Message, "violates PodSecurity")
	})
}

// TestATakenNameIsPassedOver: a stranger holds the name the next pod would get.
func TestATakenNameIsPassedOver(t *testing.T) {
	ns := peer.Namespace(t)
	set := createReplicaSet(t, ns, newReplicaSet("web", 1))
	awaitPods(t, ns, expectedNames(set, 0))
	stranger := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: podName(set.Name, set.UID, 1)}, Spec: set.Spec.Template.Spec}
	if _, err := peer.Client.CoreV1().Pods(ns).Create(t.Context(), stranger, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	resize(t, ns, "web", 3)
	awaitPods(t, ns, expectedNames(set, 0, 1, 2, 3))
}

func TestMinReadySecondsDelaysAvailability(t *testing.T) {
	ns := peer.Namespace(t)
	set := newReplicaSet("web", 1)
	set.Spec.MinReadySeconds = 2
	set = createReplicaSet(t, ns, set)
	awaitPods(t, ns, expectedNames(set, 0))
	ready := metav1.Now()
	status := fmt.Sprintf(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastTransitionTime":%q}]}}`, ready.UTC().Format("2006-01-02T15:04:05Z"))
	if _, err := peer.Client.CoreV1().Pods(ns).Patch(t.Context(), podName(set.Name, set.UID, 0), types.StrategicMergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, ns, "web", "one available replica", func(s apps.ReplicaSetStatus) bool { return s.AvailableReplicas == 1 })
	if passed := metav1.Now().Sub(ready.Rfc3339Copy().Time); passed.Seconds() < 2 {
		t.Errorf("available %s after it was ready, want at least 2s", passed)
	}
}
