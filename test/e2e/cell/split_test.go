package cell

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// splitObjects are edited on both sides, splitEdits times on each.
	splitObjects = 20
	splitEdits   = 100
)

// TestSplit cuts a cell of five into three and two, works on both sides, and
// heals it.
func TestSplit(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	major, minor := all(1, 2, 3), all(4, 5)
	a, b := major[0], minor[0]
	for i := range splitObjects {
		create(t, a, ns, fmt.Sprintf("shared-%d", i))
	}
	for _, name := range []string{"probed", "doomed", "doomed-there"} {
		create(t, a, ns, name)
	}
	_, err := a.kube.AppsV1().Deployments(ns).Create(t.Context(), deployment("web", 4), metav1.CreateOptions{})
	ok(t, err)
	a.runs(t, ns, "web", 4)
	converged(t)
	available := startProbe(t, ns, "probed", all()...)

	ok(t, cell.Cut(within(t), 4, 5))
	cut := time.Now()
	var sides sync.WaitGroup
	for field, side := range map[string][]*peer{"a": major, "b": minor} {
		sides.Go(func() {
			for i := range splitEdits {
				p := side[i%len(side)]
				if err := p.patch(t.Context(), ns, fmt.Sprintf("shared-%d", i%splitObjects), fmt.Sprintf("%s%d", field, i/splitObjects), p.name); err != nil {
					t.Errorf("edit on %s: %v", p.name, err)
				}
			}
		})
	}
	sides.Wait()
	create(t, a, ns, "only-a")
	create(t, b, ns, "only-b")
	// A delete on one side beats the update on the other, either way around.
	ok(t, b.patch(t.Context(), ns, "doomed", "updated", "yes"))
	ok(t, a.kube.CoreV1().ConfigMaps(ns).Delete(t.Context(), "doomed", metav1.DeleteOptions{}))
	ok(t, b.kube.CoreV1().ConfigMaps(ns).Delete(t.Context(), "doomed-there", metav1.DeleteOptions{}))
	ok(t, a.patch(t.Context(), ns, "doomed-there", "updated", "yes"))
	// One name, made on both sides: the earlier stays.
	winner := create(t, a, ns, "same")
	loser := create(t, b, ns, "same")
	// One side scales, the other sets something else of the same object.
	for p, body := range map[*peer]string{a: `{"spec":{"replicas":6}}`, b: `{"spec":{"revisionHistoryLimit":3}}`} {
		_, err := p.kube.AppsV1().Deployments(ns).Patch(t.Context(), "web", types.MergePatchType, []byte(body), metav1.PatchOptions{})
		ok(t, err)
	}
	unknown(t, a, minor)
	unknown(t, b, major)
	t.Logf("each side says the other is gone %s after the cut", time.Since(cut).Round(time.Millisecond))

	ok(t, cell.Heal(within(t)))
	healed := time.Now()
	eventually(t, "edits of both sides are everywhere", func() error {
		for _, p := range all() {
			if err := p.hasEdits(t, ns); err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("every edit is everywhere %s after healing", time.Since(healed).Round(time.Millisecond))
	for _, p := range all() {
		eventually(t, p.name+" calls all Ready", func() error { return p.allReady(t.Context()) })
	}
	t.Logf("all are Ready %s after healing", time.Since(healed).Round(time.Millisecond))
	available.clean(t)
	converged(t)
	t.Logf("all equal %s after healing", time.Since(healed).Round(time.Millisecond))

	for _, p := range all() {
		for _, name := range []string{"only-a", "only-b"} {
			_, err := p.kube.CoreV1().ConfigMaps(ns).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Errorf("%s on %s: %v", name, p.name, err)
			}
		}
		for _, name := range []string{"doomed", "doomed-there"} {
			_, err := p.kube.CoreV1().ConfigMaps(ns).Get(t.Context(), name, metav1.GetOptions{})
			if !apierrors.IsNotFound(err) {
				t.Errorf("%s, deleted on one side and updated on the other, on %s: %v", name, p.name, err)
			}
		}
		same, err := p.kube.CoreV1().ConfigMaps(ns).Get(t.Context(), "same", metav1.GetOptions{})
		if err != nil || same.UID != winner.UID {
			t.Errorf("the object made twice is %s on %s, want %s: %v", same.UID, p.name, winner.UID, err)
		}
		web, err := p.kube.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
		ok(t, err)
		if *web.Spec.Replicas != 6 || *web.Spec.RevisionHistoryLimit != 3 {
			t.Errorf("the deployment on %s: %d replicas, history %d", p.name, *web.Spec.Replicas, *web.Spec.RevisionHistoryLimit)
		}
	}
	shown(t, ns, winner, loser)
	nothingTwice(t, a.runs(t, ns, "web", 6))
}

func create(t *testing.T, p *peer, ns, name string) *corev1.ConfigMap {
	t.Helper()
	made, err := p.kube.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(name, map[string]string{"made": p.name}), metav1.CreateOptions{})
	ok(t, err)
	return made
}

// unknown waits until p says of hosts that it does not know how they are.
func unknown(t *testing.T, p *peer, of []*peer) {
	t.Helper()
	for _, q := range of {
		eventually(t, p.name+" calls "+q.name+" unknown", func() error {
			node, err := p.kube.CoreV1().Nodes().Get(t.Context(), q.name, metav1.GetOptions{})
			if err == nil && readiness(node) != corev1.ConditionUnknown {
				err = fmt.Errorf("it is %s", readiness(node))
			}
			return err
		})
	}
}

// hasEdits checks that no field of either side is lost.
func (p *peer) hasEdits(t *testing.T, ns string) error {
	list, err := p.kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	found := 0
	for _, item := range list.Items {
		if !strings.HasPrefix(item.Name, "shared-") {
			continue
		}
		found++
		for i := range splitEdits / splitObjects {
			for _, side := range []string{"a", "b"} {
				if field := fmt.Sprintf("%s%d", side, i); item.Data[field] == "" {
					return fmt.Errorf("%s on %s has lost %s: %v", item.Name, p.name, field, item.Data)
				}
			}
		}
	}
	if found != splitObjects {
		return fmt.Errorf("%s has %d objects", p.name, found)
	}
	return nil
}

// shown waits for the Event that tells of the object made twice.
func shown(t *testing.T, ns string, winner, loser *corev1.ConfigMap) {
	t.Helper()
	eventually(t, "an event about the name made twice", func() error {
		events, err := peers[2].kube.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "NameConflict" && e.InvolvedObject.UID == winner.UID && strings.Contains(e.Message, string(loser.UID)) {
				return nil
			}
		}
		return fmt.Errorf("%d events, none of it", len(events.Items))
	})
}
