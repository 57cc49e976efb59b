package runner

import (
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// eviction is a pod that ends because the host needs what it uses.
type eviction struct {
	grace  int64 // seconds
	change func(*v1.PodStatus)
	done   chan struct{} // closed when none of its containers run
	closed bool
}

// Evict ends a pod with that grace in seconds, whatever its own is, and reports
// it as change says once its containers have ended. It returns then; a pod that
// is not here, or has ended already, is fine.
func (r *Runner) Evict(ctx context.Context, uid types.UID, grace int64, change func(*v1.PodStatus)) error {
	r.mu.Lock()
	w := r.workers[uid]
	r.mu.Unlock()
	if w == nil {
		return nil
	}
	e := &eviction{grace: grace, change: change, done: make(chan struct{})}
	w.tell(func(w *worker) {
		if w.evicted != nil || w.released {
			e.close()
			return
		}
		w.evicted = e
	})
	w.giveUp()
	select {
	case <-e.done:
	case <-w.ended:
	case <-ctx.Done():
		return fmt.Errorf("evict pod %s: its containers have not ended: %w", uid, ctx.Err())
	}
	return nil
}

// Released reports whether nothing is left of a pod on this host but its logs.
func (r *Runner) Released(uid types.UID) bool {
	r.mu.Lock()
	w := r.workers[uid]
	r.mu.Unlock()
	return w == nil || w.freed.Load()
}

func (e *eviction) close() {
	if !e.closed {
		e.closed = true
		close(e.done)
	}
}

// evictStep ends the pod with the grace of its eviction.
func (w *worker) evictStep(ctx context.Context, pod *v1.Pod) (next time.Time) {
	short := *pod
	short.Spec.TerminationGracePeriodSeconds = &w.evicted.grace
	next = w.releaseStep(ctx, &short)
	if !slices.ContainsFunc(w.slots, (*slot).running) {
		w.evicted.close()
	}
	return next
}

// fillEviction adds why the pod was evicted to its conditions, once it has
// ended: a disruption of a pod that goes on would be none (KEP-3329).
func (w *worker) fillEviction(before, st *v1.PodStatus) {
	if w.evicted == nil || !terminal(st.Phase) {
		return
	}
	if _, known := podutil.GetPodCondition(before, v1.DisruptionTarget); known != nil {
		if _, has := podutil.GetPodCondition(st, v1.DisruptionTarget); has == nil {
			st.Conditions = append(st.Conditions, *known)
		}
	}
	w.evicted.change(st)
}
