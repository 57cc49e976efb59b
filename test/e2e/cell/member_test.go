package cell

import (
	"context"
	"fmt"
	"path/filepath"
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
	eventually(t, "the dead peer is forgotten", func() error { // refused while it is thought alive
		_, err := cell.Output(t.Context(), 2, "shoal", "node", "forget", gone.name)
		return err
	})
	eventually(t, "the Node and the pods of the forgotten peer go", func() error {
		if _, err := peers[3].kube.CoreV1().Nodes().Get(t.Context(), gone.name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("its Node: %s", fmt.Sprint(err))
		}
		if _, err := peers[3].kube.CoreV1().Pods(ns).Get(t.Context(), "bound", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("its pod: %s", fmt.Sprint(err))
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
	// Its first start may be ready before another peer tells it.
	if err := cell.Start(within(t), gone.number); err != nil {
		t.Logf("start of a forgotten peer: %v", err)
	}
	ended(t, gone)
	refusesStart(t, gone)
	converged(t, others(gone)...)
	rejoin(t, gone)
	whole(t)
}

// TestLeave takes a living peer out of the cell, which then joins anew.
func TestLeave(t *testing.T) {
	whole(t)
	gone := peers[4]
	gone.shoal(t, "leave", "--yes")
	ended(t, gone)
	for _, p := range others(gone) {
		eventually(t, p.name+" has the peer that left no longer", func() error {
			if _, err := p.kube.CoreV1().Nodes().Get(t.Context(), gone.name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("its Node: %s", fmt.Sprint(err))
			}
			status, err := p.status(t.Context())
			if err == nil && len(status.Peers) != nodes-1 {
				err = fmt.Errorf("%d peers", len(status.Peers))
			}
			return err
		})
	}
	refusesStart(t, gone)
	rejoin(t, gone)
	whole(t)
}

// TestBackupUnderLoad takes a backup of one peer while all are written to.
func TestBackupUnderLoad(t *testing.T) {
	whole(t)
	writes := startLoad(t, space(t, peers[1]), all()...)
	writesPass(t, writes, 50)
	file := filepath.Join(world.Dir, "cell.backup")
	peers[3].shoal(t, "backup", file)
	writesPass(t, writes, 50)
	writes.end()
	peers[2].shoal(t, "backup", "--verify", file)
}

// ended waits until a peer's daemon is no more.
func ended(t *testing.T, gone *peer) {
	t.Helper()
	eventually(t, gone.name+"'s daemon ends", func() error {
		found, err := cell.Peers(t.Context())
		if err == nil && found[gone.number-1].Pid != 0 {
			err = fmt.Errorf("pid %d", found[gone.number-1].Pid)
		}
		return err
	})
}

// refusesStart checks that a peer that is no member says what to do.
func refusesStart(t *testing.T, gone *peer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), refusedWithin)
	defer cancel()
	if err := cell.Start(ctx, gone.number); err == nil || !strings.Contains(err.Error(), "to join again, run `shoal token create`") {
		t.Fatalf("the start of a peer that is no member does not say how to join anew: %v", err)
	}
}

// rejoin brings a peer back that the cell has no longer.
func rejoin(t *testing.T, p *peer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), labWithin)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		if killErr := cell.Kill(ctx, p.number); killErr != nil {
			t.Errorf("kill %s: %v", p.name, killErr)
		}
		// Refused while the others still take the one before for alive.
		if err = cell.Rejoin(ctx, p.number); err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
		}
	}
	t.Errorf("rejoin %s: %v", p.name, err)
}
