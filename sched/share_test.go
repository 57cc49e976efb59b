package sched

import (
	"fmt"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/sched/internal/testpeer"
	"shoal/sched/slices"
)

// share is that of the scheduler all tests have.
var share = &sharing{led: slices.All(), changed: make(chan struct{}, 1)}

// sharing leads what it is told to, in an epoch of 7.
type sharing struct {
	mu      sync.Mutex
	led     slices.Set // guarded by mu
	changed chan struct{}
}

func (s *sharing) Led() slices.Set { s.mu.Lock(); defer s.mu.Unlock(); return s.led }
func (s *sharing) Stamp(i int) (slices.Stamp, bool) {
	return slices.Stamp{Slice: i, Epoch: 7, Leader: "sharing"}, s.Led().Has(i)
}
func (s *sharing) Watch() (<-chan struct{}, func()) { return s.changed, func() {} }
func (s *sharing) lead(led slices.Set) {
	s.mu.Lock()
	s.led = led
	s.mu.Unlock()
	s.changed <- struct{}{}
}

// TestAShareOfThePods: a scheduler places the pods of its slices and no others,
// comes for those that become its own, and lets go of the rest.
func TestAShareOfThePods(t *testing.T) {
	ns := namespace(t)
	peer.Node(t, "share", map[v1.ResourceName]string{"cpu": "100", "memory": "64Gi", "pods": "200"})
	var low slices.Set
	for i := range slices.Count / 2 {
		low = low.With(i)
	}
	share.lead(low)
	defer share.lead(slices.All())

	const count = 40
	creates := func(from int) {
		for i := from; i < from+count; i++ {
			create(t, ns, newPod(fmt.Sprintf("p%d", i), "share", 1))
		}
	}
	stamped := func(led slices.Set) func() string {
		return func() string {
			pods, err := peer.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err.Error()
			}
			for _, pod := range pods.Items {
				i := slices.Of(string(pod.UID))
				want := ""
				if led.Has(i) {
					want = fmt.Sprintf("%d/7/sharing", i)
				}
				if got := pod.Annotations[slices.StampKey]; got != want {
					return fmt.Sprintf("%s is stamped %q, want %q", pod.Name, got, want)
				}
			}
			return ""
		}
	}
	creates(0)
	testpeer.Eventually(t, stamped(low))
	share.lead(slices.All())
	testpeer.Eventually(t, stamped(slices.All()))
	share.lead(low)
	creates(count)
	testpeer.Eventually(t, func() string {
		pods, err := peer.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		waiting := 0
		for _, pod := range pods.Items {
			if pod.Spec.NodeName != "" {
				continue
			}
			if waiting++; low.Has(slices.Of(string(pod.UID))) {
				return pod.Name + " waits for a node"
			}
		}
		if waiting == 0 {
			return "no pod of another's waits"
		}
		return ""
	})
}
