package sched

import (
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"shoal/sched/placement"
)

func queued(name string, priority int32) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Priority: &priority}}
}

// drain takes everything that is ready, parking each with the given waits.
func drain(q *queue, waits placement.Change) []string {
	var names []string
	for it := q.next(); it != nil; it = q.next() {
		names = append(names, it.pod.Name)
		q.park(it, waits)
	}
	return names
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestQueueOrder(t *testing.T) {
	q := newQueue(clocktesting.NewFakeClock(time.Unix(0, 0)), func() {})
	for _, pod := range []*v1.Pod{queued("a", 0), queued("urgent", 10), queued("b", 0)} {
		q.set(pod)
	}
	q.set(queued("a", 0)) // known already: keeps its turn
	expect(t, "by priority, then arrival", drain(q, 0), "urgent", "a", "b")
}

// TestParkedPodsWaitForTheirChange: neither another change nor time brings a
// pod back, and the right change does so only after the back-off.
func TestParkedPodsWaitForTheirChange(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(0, 0))
	woken := 0
	q := newQueue(clock, func() { woken++ })
	q.set(queued("needs-room", 0))
	expect(t, "first try", drain(q, placement.PodGone), "needs-room")

	clock.Step(time.Hour)
	q.changed(placement.PodPlaced)
	expect(t, "after another change", drain(q, placement.PodGone))
	q.changed(placement.PodGone)
	expect(t, "after its change", drain(q, placement.PodGone), "needs-room")

	q.changed(placement.PodGone)
	expect(t, "within the back-off", drain(q, placement.PodGone))
	before := woken
	clock.Step(longestBackoff)
	if woken == before {
		t.Error("nobody was woken when the back-off ended")
	}
	expect(t, "after the back-off", drain(q, placement.PodGone), "needs-room")
}

func TestAChangedPodIsTriedAtOnce(t *testing.T) {
	q := newQueue(clocktesting.NewFakeClock(time.Unix(0, 0)), func() {})
	q.set(queued("p", 0))
	drain(q, 0)
	q.refresh(queued("p", 0))
	expect(t, "after its status changed", drain(q, 0))
	q.set(queued("p", 0))
	expect(t, "after its spec changed", drain(q, 0), "p")
}

func TestADroppedPodStaysAway(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(0, 0))
	q := newQueue(clock, func() {})
	for _, name := range []string{"active", "parked", "backing-off", "in-hand"} {
		q.set(queued(name, 0))
	}
	hand := map[string]*item{}
	for range 4 {
		it := q.next()
		hand[it.pod.Name] = it
	}
	q.park(hand["parked"], placement.NodeChange)
	q.retry(hand["backing-off"])
	q.drop("active")
	q.set(queued("active", 0))
	for name := range hand {
		q.drop(types.UID(name))
	}
	q.park(hand["in-hand"], placement.NodeChange) // its placement fails after it was deleted
	q.changed(placement.NodeChange)
	clock.Step(time.Hour)
	expect(t, "after all were dropped", drain(q, 0))
	if len(q.items)+len(q.parked)+q.active.Len()+q.backoff.Len() != 0 {
		t.Errorf("left behind: %d items, %d parked", len(q.items), len(q.parked))
	}
}

func TestBackoffGrowsAndEnds(t *testing.T) {
	for attempts, want := range map[int]time.Duration{1: firstBackoff, 2: 2 * firstBackoff, 3: 4 * firstBackoff, 100: longestBackoff} {
		if got := backoffAfter(attempts); got != want {
			t.Errorf("after %d attempts: %s, want %s", attempts, got, want)
		}
	}
}

// TestHurry: what a pod waited for comes before its back-off is over.
func TestHurry(t *testing.T) {
	q := newQueue(clocktesting.NewFakeClock(time.Unix(0, 0)), func() {})
	q.set(queued("promised", 10))
	q.set(queued("other", 10))
	expect(t, "first try", drain(q, placement.PodGone), "promised", "other")
	q.changed(placement.PodGone)
	expect(t, "within the back-off", drain(q, placement.PodGone))
	q.hurry("promised")
	q.hurry("unknown")
	expect(t, "in a hurry", drain(q, placement.PodGone), "promised")
}
