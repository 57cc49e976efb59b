package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// crashRounds and crashWrites are the promise being tested: twenty kills,
	// each at a random moment of a thousand writes.
	crashRounds = 20
	crashWrites = 1000
	crashActors = 8
)

// TestKilledDuringWrites kills the daemon with SIGKILL at random moments. Every
// write that was answered must be there afterwards, and every object whole.
func TestKilledDuringWrites(t *testing.T) {
	ns := newNamespace(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range crashRounds {
		killAfter := int64(1 + random.IntN(crashWrites-1))
		written := writeUntilKilled(t, ns, round, killAfter)
		if err := daemon.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkWritten(t, ns, round, written)
		if t.Failed() {
			t.Fatalf("round %d, killed after %d writes", round, killAfter)
		}
		if err := client.CoreV1().ConfigMaps(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "crash"}); err != nil {
			t.Fatal(err)
		}
	}
}

// body is large enough to span disk blocks, and tells the revision throughout,
// so that a mixture of two writes cannot look whole.
func body(revision int) string { return strings.Repeat(fmt.Sprintf("%06d.", revision), 600) }

// writeUntilKilled creates objects and updates each several times until the
// daemon, killed after that many answers, answers no more. It returns the last
// answered revision of each object.
func writeUntilKilled(t *testing.T, ns string, round int, killAfter int64) map[string]int {
	t.Helper()
	const revisions = 10
	var (
		mu       sync.Mutex
		answered = map[string]int{} // guarded by mu
		count    atomic.Int64
		kill     sync.Once
		actors   sync.WaitGroup
	)
	maps := client.CoreV1().ConfigMaps(ns)
	write := func(name string, revision int) error {
		object := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"crash": "yes"}},
			Data:       map[string]string{"body": body(revision)},
		}
		ctx, cancel := context.WithTimeout(t.Context(), settleWithin)
		defer cancel()
		var err error
		if revision == 0 {
			_, err = maps.Create(ctx, object, metav1.CreateOptions{})
		} else {
			_, err = maps.Update(ctx, object, metav1.UpdateOptions{})
		}
		return err
	}
	for actor := range crashActors {
		actors.Go(func() {
			for i := range crashWrites {
				name := fmt.Sprintf("crash-%d-%d-%d", round, actor, i/revisions)
				if err := write(name, i%revisions); err != nil {
					if count.Load() < killAfter {
						t.Errorf("write %s before the kill: %v", name, err)
						kill.Do(daemon.Kill)
					}
					return
				}
				mu.Lock()
				answered[name] = i % revisions
				mu.Unlock()
				if count.Add(1) == killAfter {
					kill.Do(daemon.Kill)
				}
			}
		})
	}
	actors.Wait()
	return answered
}

func checkWritten(t *testing.T, ns string, round int, written map[string]int) {
	t.Helper()
	list, err := client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "crash"})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, object := range list.Items {
		found[object.Name] = true
		least := written[object.Name] // an unanswered create may be there too
		// The write that was under way may have happened or not.
		if text := object.Data["body"]; text != body(least) && text != body(least+1) {
			t.Errorf("%s: revision %d was answered, found %.20q of %d bytes", object.Name, least, text, len(text))
		}
		if _, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), object.Name, metav1.GetOptions{}); err != nil {
			t.Errorf("%s is listed: %v", object.Name, err)
		}
	}
	for name := range written {
		if !found[name] {
			_, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), name, metav1.GetOptions{})
			t.Errorf("round %d: %s was answered and is not listed; get: %v (not found: %t)", round, name, err, apierrors.IsNotFound(err))
		}
	}
}
