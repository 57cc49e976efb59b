package controllers

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"
)

func drawUID(t *rapid.T) types.UID {
	return types.UID(rapid.StringN(1, 36, -1).Draw(t, "uid"))
}

// TestNamesAreOrdinalsInDisguise: a pod's name says which number it has, and no
// two numbers share a name.
func TestNamesAreOrdinalsInDisguise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		uid := drawUID(t)
		a := rapid.IntRange(0, maxOrdinal-1).Draw(t, "a")
		b := rapid.IntRange(0, maxOrdinal-1).Draw(t, "b")
		nameA, nameB := podName("web-5d8f", uid, a), podName("web-5d8f", uid, b)
		if (nameA == nameB) != (a == b) {
			t.Fatalf("%d is %s and %d is %s", a, nameA, b, nameB)
		}
		if got, ok := podOrdinal("web-5d8f", uid, nameA); !ok || got != a {
			t.Fatalf("%s reads as %d (%v), want %d", nameA, got, ok, a)
		}
	})
}

func TestNamesStayHostNames(t *testing.T) {
	for _, set := range []string{"a", "web-5d8f", strings.Repeat("x", 57), strings.Repeat("x", 58), strings.Repeat("x", 253)} {
		name := podName(set, "uid", 7)
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
		}
		if got, ok := podOrdinal(set, "uid", name); !ok || got != 7 {
			t.Errorf("%s reads as %d (%v)", name, got, ok)
		}
	}
}

func TestForeignNamesHaveNoOrdinal(t *testing.T) {
	for _, name := range []string{"", "web", "web-", "web-abcde", "web-xxxx", "web-xxxxxx", "other-xxxxx"} {
		if n, ok := podOrdinal("web", "uid", name); ok {
			t.Errorf("%q reads as %d", name, n)
		}
	}
}

// TestEqualHistoriesGiveEqualNames: the order in which pods were seen does not
// matter, and no number is given twice.
func TestEqualHistoriesGiveEqualNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		uid := drawUID(t)
		some := func(label string, below int) []int {
			return rapid.SliceOfNDistinct(rapid.IntRange(0, below), 0, 20, rapid.ID[int]).Draw(t, label)
		}
		r := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		initial, later, gone := some("initial", 20), some("later", 60), some("gone", 60)
		count := rapid.IntRange(0, 10).Draw(t, "count")
		choose := func() []int {
			var pods []*v1.Pod
			for _, n := range append(slices.Clone(initial), later...) {
				pods = append(pods, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: podName("web", uid, n)}})
			}
			known := startAbove("web", uid, pods[:len(initial)])
			events := append(slices.Clone(later), gone...)
			r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
			for _, n := range events {
				known.use(n)
			}
			r.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
			return nextOrdinals("web", uid, pods, known, count)
		}
		one, two := choose(), choose()
		if !slices.Equal(one, two) || len(one) != count {
			t.Fatalf("%v and %v, want %d equal ones", one, two, count)
		}
		for _, n := range one {
			if slices.Contains(initial, n) || slices.Contains(later, n) || slices.Contains(gone, n) {
				t.Fatalf("%d was used before", n)
			}
		}
	})
}

func numbered(ordinals ...int) []*v1.Pod {
	var pods []*v1.Pod
	for _, n := range ordinals {
		pods = append(pods, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: podName("web", "uid", n)}})
	}
	return pods
}

func TestNextOrdinals(t *testing.T) {
	cases := []struct {
		name    string
		initial []int // in sight at the first look
		used    []int // seen to come, and perhaps to go, since
		sight   []int // in sight now
		count   int
		want    []int
	}{
		{"the first pods", nil, nil, nil, 3, []int{0, 1, 2}},
		{"gaps at the first look were used", []int{0, 4}, nil, []int{0, 4}, 2, []int{5, 6}},
		{"a burst seen out of order has its missing one asked for", nil, []int{0, 2, 3}, []int{0, 2, 3}, 2, []int{1, 4}},
		{"a replacement is fresh", nil, []int{0, 1, 2}, []int{0, 1}, 1, []int{3}},
		{"used up", []int{maxOrdinal - 2, 1}, nil, []int{maxOrdinal - 2, 1}, 3, []int{maxOrdinal - 1, 0, 2}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			known := startAbove("web", "uid", numbered(c.initial...))
			for _, n := range c.used {
				known.use(n)
			}
			if got := nextOrdinals("web", "uid", numbered(c.sight...), known, c.count); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func planSight(replicas int32, active ...*v1.Pod) sight {
	return sight{
		set:    &apps.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "uid"}, Spec: apps.ReplicaSetSpec{Replicas: &replicas}},
		active: active, owned: active, related: active,
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

func planPod(name, node string, phase v1.PodPhase, ready bool) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{NodeName: node}, Status: v1.PodStatus{Phase: phase}}
	if ready {
		pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
	}
	return pod
}

func TestPlanReplicas(t *testing.T) {
	unbound := planPod("unbound", "", v1.PodPending, false)
	pending := planPod("pending", "a", v1.PodPending, false)
	unready := planPod("unready", "a", v1.PodRunning, false)
	ready := planPod("ready", "b", v1.PodRunning, true)
	crowdedA, crowdedB := planPod("crowded-a", "c", v1.PodRunning, true), planPod("crowded-b", "c", v1.PodRunning, true)
	cheap := planPod("cheap", "b", v1.PodRunning, true)
	cheap.Annotations = map[string]string{v1.PodDeletionCost: "-1"}

	cases := []struct {
		name   string
		sight  sight
		create int
		remove []string
	}{
		{"nothing to do", planSight(1, ready), 0, nil},
		{"too few", planSight(3, ready), 2, nil},
		{"far too few: one burst at a time", planSight(2000), maxBurst, nil},
		{"unbound goes first", planSight(3, ready, unready, pending, unbound), 0, []string{"unbound"}},
		{"then pending, then not ready", planSight(1, ready, unready, pending), 0, []string{"pending", "unready"}},
		{"cheaper to delete", planSight(1, ready, cheap), 0, []string{"cheap"}},
		{"the crowded node gives", planSight(2, ready, crowdedA, crowdedB), 0, []string{"crowded-b"}},
		{"none at all", planSight(0, ready), 0, []string{"ready"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := planReplicas(c.sight)
			var removed []string
			for _, pod := range got.remove {
				removed = append(removed, pod.Name)
			}
			if len(got.create) != c.create || !slices.Equal(removed, c.remove) {
				t.Errorf("creates %d, removes %v; want %d, %v", len(got.create), removed, c.create, c.remove)
			}
		})
	}
}

func TestPlanLeavesADyingSetAlone(t *testing.T) {
	s := planSight(3)
	s.set.DeletionTimestamp = &metav1.Time{Time: s.now}
	if got := planReplicas(s); len(got.create)+len(got.remove) != 0 {
		t.Errorf("plans %v for a ReplicaSet that is being deleted", got)
	}
}

func TestStatusCountsAndKeepsTheFailuresTime(t *testing.T) {
	s := planSight(3, planPod("a", "n", v1.PodRunning, true), planPod("b", "n", v1.PodRunning, false))
	s.set.Generation = 4
	failed := statusOf(s, fmt.Errorf("quota"))
	if failed.Replicas != 2 || failed.ReadyReplicas != 1 || failed.AvailableReplicas != 1 || failed.ObservedGeneration != 4 {
		t.Errorf("counts: %+v", failed)
	}
	if len(failed.Conditions) != 1 || failed.Conditions[0].Reason != "FailedCreate" || failed.Conditions[0].Message != "quota" {
		t.Fatalf("conditions: %+v", failed.Conditions)
	}
	s.set.Status, s.now = failed, s.now.Add(time.Hour)
	if again := statusOf(s, fmt.Errorf("quota still")); !again.Conditions[0].LastTransitionTime.Equal(&failed.Conditions[0].LastTransitionTime) {
		t.Error("a lasting failure got a new time")
	}
	if over := statusOf(s, nil); len(over.Conditions) != 0 {
		t.Errorf("conditions after the failure is over: %+v", over.Conditions)
	}
}

// TestPendingWrites follows one ReplicaSet's own writes until they are seen.
func TestPendingWrites(t *testing.T) {
	now := time.Unix(1000, 0)
	controlled := true
	pod := func(ordinal int) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: podName("web", "uid", ordinal), UID: types.UID(fmt.Sprint(ordinal)),
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: "uid", Controller: &controlled}},
		}}
	}
	p := newPendingWrites()
	set := &apps.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "uid"}, Status: apps.ReplicaSetStatus{ObservedGeneration: 1}}
	p.know(set)
	p.expect("uid", plan{create: []string{pod(0).Name, pod(1).Name}}, now)
	p.observe(pod(0), false)
	if p.settled("uid", now) {
		t.Error("settled with a create unseen")
	}
	p.created("uid", pod(1).Name)
	if !p.settled("uid", now) {
		t.Error("not settled after a create was seen and one failed")
	}
	p.expect("uid", plan{remove: []*v1.Pod{pod(0)}}, now)
	if p.settled("uid", now) || !p.settled("uid", now.Add(pendingTimeout)) {
		t.Error("an unseen delete must hold, but not for ever")
	}
	p.numbers(set, []*v1.Pod{pod(5)})
	p.observe(pod(6), true)
	if got := p.numbers(set, nil); got.base != 7 {
		t.Errorf("base %d after numbers 5 and 6 were seen, want 7", got.base)
	}
	p.forget("uid")
	p.observe(pod(8), true)
	if len(p.sets) != 0 {
		t.Error("pods that outlive their ReplicaSet are remembered")
	}
}
