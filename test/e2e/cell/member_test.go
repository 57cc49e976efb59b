package cell

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// refusedWithin bounds the start of a daemon that must refuse.
const refusedWithin = time.Minute

// TestRotatedKeysSurviveRestart has a peer come back after the keys changed.
func TestRotatedKeysSurviveRestart(t *testing.T) {
	whole(t)
	peers[2].shoal(t, "keys", "rotate")
	ok(t, cell.Kill(within(t), 5))
	ok(t, cell.Start(within(t), 5))
	whole(t)
}

// TestForgottenMember forgets a dead peer, which then has to join anew.
func TestForgottenMember(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	gone := peers[5]
	_, err := peers[1].kube.AppsV1().Deployments(ns).Create(t.Context(), deployment("spread", nodes), metav1.CreateOptions{})
	ok(t, err)
	_, err = peers[1].kube.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "bound", Labels: map[string]string{"app": "bound"}},
		Spec:       corev1.PodSpec{NodeName: gone.name, Containers: []corev1.Container{hello()}},
	}, metav1.CreateOptions{})
	ok(t, err)
	peers[1].runs(t, ns, "spread", nodes)
	peers[1].runs(t, ns, "bound", 1)
	ok(t, cell.Kill(within(t), gone.number))
	t.Cleanup(func() { rejoin(t, gone) })
	peers[2].shoal(t, "node", "forget", gone.name)
	eventually(t, "the Node and the pods of the forgotten peer go", func() error {
		if _, err := peers[3].kube.CoreV1().Nodes().Get(t.Context(), gone.name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("its Node: %v", err)
		}
		if _, err := peers[3].kube.CoreV1().Pods(ns).Get(t.Context(), "bound", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("its pod: %v", err)
		}
		return nil
	})
	peers[3].runs(t, ns, "spread", nodes, gone)
	for _, p := range others(gone) {
		eventually(t, p.name+" lists the forgotten peer no longer", func() error {
			if out := p.shoal(t, "status"); strings.Contains(out, gone.name) {
				return fmt.Errorf("it says:\n%s", out)
			}
			return nil
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), refusedWithin)
	defer cancel()
	err = cell.Start(ctx, gone.number)
	if err == nil || !strings.Contains(err.Error(), "--join") {
		t.Errorf("the start of a forgotten peer does not say that it has to join anew: %v", err)
	}
	converged(t, others(gone)...)
}

// rejoin brings a peer back that the cell has no longer.
func rejoin(t *testing.T, p *peer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), labWithin)
	defer cancel()
	if err := cell.Kill(ctx, p.number); err != nil {
		t.Errorf("kill %s: %v", p.name, err)
	}
	if err := cell.Rejoin(ctx, p.number); err != nil {
		t.Errorf("rejoin %s: %v", p.name, err)
	}
}
