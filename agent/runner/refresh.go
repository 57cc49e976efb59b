package runner

import (
	"context"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// refreshRetry is the wait after configuration that could not be renewed.
const refreshRetry = 30 * time.Second

// refresh is where the renewal of a pod's configuration volumes stands.
type refresh struct {
	due     time.Time // zero when nothing will be
	running bool
	again   bool // something changed while it ran
	labels  map[string]string
	notes   map[string]string // annotations
	// generation is the specification's: limits can change (KEP-1287), which
	// files of the downward API have.
	generation int64
}

// Refresh tells the runner that an object a pod's volumes are filled from
// has changed, or that what a container waited for may be there.
func (r *Runner) Refresh(uid types.UID) {
	r.mu.Lock()
	w := r.workers[uid]
	r.mu.Unlock()
	if w != nil {
		w.tell(func(w *worker) {
			w.refresh.due = now()
			w.refresh.again = true
			for _, s := range w.slots {
				if s.waiting.Reason == reasonConfigError {
					s.retryAt = time.Time{}
				}
			}
		})
	}
}

// beginRefresh notes, after the volumes were filled, when they are to be
// renewed.
func (w *worker) beginRefresh(pod *v1.Pod) {
	w.refresh.labels, w.refresh.notes, w.refresh.generation = pod.Labels, pod.Annotations, pod.Generation
	w.refresh.due = w.r.Volumes.RefreshAt(pod.UID)
}

// refreshStep renews configuration that is due, in the background, and says
// when to look again.
func (w *worker) refreshStep(ctx context.Context, pod *v1.Pod) time.Time {
	f := &w.refresh
	if f.generation != pod.Generation || !maps.Equal(f.labels, pod.Labels) || !maps.Equal(f.notes, pod.Annotations) {
		f.labels, f.notes, f.generation = pod.Labels, pod.Annotations, pod.Generation
		f.due, f.again = now(), true
	}
	if f.running || f.due.IsZero() {
		return time.Time{}
	}
	if now().Before(f.due) {
		return f.due
	}
	f.running, f.again = true, false
	w.jobs.Go(func() {
		err := w.r.Volumes.Refresh(ctx, pod)
		if ctx.Err() != nil {
			return
		}
		w.tell(func(w *worker) {
			f.running = false
			switch {
			case err != nil:
				w.mountFailed(pod, err)
				f.due = now().Add(refreshRetry)
				if f.again {
					f.due = now()
				}
			case f.again:
				f.due = now()
			default:
				f.due = w.r.Volumes.RefreshAt(pod.UID)
			}
		})
	})
	return time.Time{}
}
