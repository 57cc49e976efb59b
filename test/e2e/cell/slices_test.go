package cell

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/sched/slices"
)

// slicesLed returns who leads each slice by what p has heard; an error while one is
// led by none of some.
func slicesLed(t *testing.T, p *peer, some ...*peer) (map[int]string, error) {
	t.Helper()
	list, err := p.kube.CoordinationV1().Leases(slices.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: slices.Label})
	if err != nil {
		return nil, err
	}
	may := map[string]bool{}
	for _, q := range some {
		may[q.name] = true
	}
	led := map[int]string{}
	for i := range list.Items {
		r, ok := slices.RecordOf(&list.Items[i])
		if !ok {
			return nil, fmt.Errorf("%s is no record", list.Items[i].Name)
		}
		if !may[r.Leader] {
			return nil, fmt.Errorf("%s is led by %s", list.Items[i].Name, r.Leader)
		}
		led[r.Slice] = r.Leader
	}
	if len(led) != slices.Count {
		return nil, fmt.Errorf("%d slices are led", len(led))
	}
	return led, nil
}

// TestSlices: all peers have a share of the slices and schedule what is in it; the
// share of one that is killed is led by the others soon, and is its own again
// when it is back.
func TestSlices(t *testing.T) {
	whole(t)
	eventually(t, "every peer leads a share", func() error {
		led, err := slicesLed(t, peers[1], all()...)
		if err != nil {
			return err
		}
		share := map[string]int{}
		for _, name := range led {
			share[name]++
		}
		if len(share) != nodes {
			return fmt.Errorf("slices are led so: %v", share)
		}
		return nil
	})
	const pods = 30
	ns := space(t, peers[1])
	_, err := peers[1].kube.AppsV1().Deployments(ns).Create(t.Context(), deployment("many", pods), metav1.CreateOptions{})
	ok(t, err)
	stampedBy(t, peers[1].runs(t, ns, "many", pods), nodes-2) // a peer may have no pod by chance

	victim := peers[4]
	rest := others(victim)
	ok(t, cell.Kill(within(t), victim.number))
	killed := time.Now()
	eventually(t, "the others lead all slices", func() error {
		_, err := slicesLed(t, rest[0], rest...)
		return err
	})
	t.Logf("led by others %s after the kill", time.Since(killed).Round(time.Millisecond))
	_, err = rest[0].kube.AppsV1().Deployments(ns).Create(t.Context(), deployment("few", 5), metav1.CreateOptions{})
	ok(t, err)
	stampedBy(t, rest[0].runs(t, ns, "few", 5, victim), 1)
	ok(t, cell.Start(within(t), victim.number))
	whole(t)
	eventually(t, "the peer that was killed leads again", func() error {
		led, err := slicesLed(t, rest[0], all()...)
		if err != nil {
			return err
		}
		for _, name := range led {
			if name == victim.name {
				return nil
			}
		}
		return fmt.Errorf("%s leads nothing", victim.name)
	})
}

// stampedBy checks that the pods' bindings say who made them, as leader of the pod's
// slice, and that at least so many peers did.
func stampedBy(t *testing.T, pods []corev1.Pod, atLeast int) {
	t.Helper()
	by := map[string]int{}
	for _, pod := range pods {
		stamp, err := slices.ParseStamp(pod.Annotations[slices.StampKey])
		if err != nil {
			t.Errorf("%s: %v", pod.Name, err)
			continue
		}
		if want := slices.Of(string(pod.UID)); stamp.Slice != want {
			t.Errorf("%s is of slice %d, and bound as of %d", pod.Name, want, stamp.Slice)
		}
		by[stamp.Leader]++
	}
	if len(by) < atLeast {
		t.Errorf("bound by %v, not by %d peers", by, atLeast)
	}
}
