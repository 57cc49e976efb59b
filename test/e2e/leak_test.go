package e2e

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const leakPods = 50

// TestNothingLeaks runs fifty pods and counts what the host holds before them
// and after they are gone.
func TestNothingLeaks(t *testing.T) {
	// One pod first, so that what is made once and kept is there already.
	t.Run("first", func(t *testing.T) { startEcho(t, newNamespace(t), 1) })
	eventually(t, "the first pod's containers gone", func() error { return noPodsLeft(t) })
	held := countHeld(t)
	t.Logf("before: %v; snapshots: %v", held, snapshotNames(t))

	t.Run("run", func(t *testing.T) {
		ns := newNamespace(t)
		startEcho(t, ns, leakPods)
		during := countHeld(t)
		t.Logf("with %d pods: %v", leakPods, during)
		// A count that does not see the pods could not see them leak.
		for name, count := range during {
			if count < held[name]+leakPods {
				t.Errorf("%s: %d before and %d with %d pods", name, held[name], count, leakPods)
			}
		}
	})
	eventually(t, "everything gone", func() error {
		now := countHeld(t)
		for name, count := range now {
			if count > held[name] {
				return fmt.Errorf("%s: %d before, %d after; all: %v; snapshots: %v", name, held[name], count, now, snapshotNames(t))
			}
		}
		return nil
	})
}

func noPodsLeft(t *testing.T) error {
	pods, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	if tasks := liveTasks(t); len(pods.Items) > 0 || len(tasks) > 0 {
		return fmt.Errorf("%d pods, tasks %v", len(pods.Items), tasks)
	}
	return nil
}
