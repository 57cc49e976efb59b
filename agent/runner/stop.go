package runner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
)

// stopping is a pod on its way out.
type stopping struct {
	deadline time.Time
	cleaning bool
	clean    bool
	failures int
	failed   error // the last time
	retryAt  time.Time
}

// stopAllTries is how often a pod is cleaned up for a daemon that ends with its
// pods: it does not wait for what does not come back by itself.
const stopAllTries = 3

// graceLeast is the grace of a pod that asks for none.
const graceLeast = time.Second

// grace is how long the pod's containers get from now.
func grace(pod *v1.Pod) time.Duration {
	seconds := int64(30)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		seconds = *g
	}
	return max(time.Duration(seconds)*time.Second, graceLeast)
}

// stopStep ends the pod's containers, cleans up and reports it gone.
func (w *worker) stopStep(ctx context.Context, pod *v1.Pod) time.Time {
	if w.stop == nil {
		w.stop = &stopping{deadline: now().Add(grace(pod))}
	}
	st := w.stop
	// A later delete may shorten the wait, never lengthen it.
	if d := now().Add(grace(pod)); d.Before(st.deadline) {
		st.deadline = d
	}
	if next, waiting := w.stopContainers(pod); waiting {
		return next
	}
	switch {
	case st.clean:
		w.freed.Store(true) // before anybody hears that the pod is gone, and its place is asked for
		w.publish(pod)
		w.finish(pod)
		return time.Time{}
	case st.cleaning:
		return time.Time{}
	case st.failures >= stopAllTries && w.isQuiet():
		w.left, w.over = fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, st.failed), true
		return time.Time{}
	case now().Before(st.retryAt):
		return st.retryAt
	}
	w.clean(ctx, pod)
	return time.Time{}
}

// releaseStep frees what a finished pod held; its logs stay.
func (w *worker) releaseStep(ctx context.Context, pod *v1.Pod) time.Time {
	if w.stop == nil {
		w.stop = &stopping{deadline: now().Add(grace(pod))}
	}
	if next, waiting := w.stopContainers(pod); waiting {
		return next
	}
	switch {
	case w.stop.clean:
		w.publish(pod)
		w.released = true
		w.freed.Store(true)
		w.stop = nil
	case w.stop.cleaning:
	case now().Before(w.stop.retryAt):
		return w.stop.retryAt
	default:
		w.clean(ctx, pod)
	}
	return time.Time{}
}

// stopContainers ends what runs. It reports whether something still does, and
// when to look again.
func (w *worker) stopContainers(pod *v1.Pod) (time.Time, bool) {
	running := false
	for _, s := range w.slots {
		if !s.running() {
			continue
		}
		running = true
		w.kill(pod, s, "Stopping container "+s.spec.Name, w.stop.deadline.Sub(now()))
		e := &s.current.end
		if w.stop.deadline.Before(e.deadline) {
			e.deadline = w.stop.deadline
		}
	}
	return w.endings(pod, w.inOrder), running
}

// clean takes everything of the pod away, in the background.
func (w *worker) clean(ctx context.Context, pod *v1.Pod) {
	w.stop.cleaning = true
	ids := w.leftovers()
	for _, s := range w.slots {
		s.prepared = nil
	}
	st := w.stop
	w.jobs.Go(func() {
		err := acquire(ctx, w.r.stops)
		if err == nil {
			err = w.r.takeDown(ctx, pod, ids)
			<-w.r.stops
		}
		if ctx.Err() != nil {
			return
		}
		w.tell(func(w *worker) {
			st.cleaning = false
			if err == nil {
				w.purged(ids...)
				st.clean = true
				w.box = sandbox{}
				return
			}
			st.failures++
			st.failed = err
			st.retryAt = now().Add(retryAfter(st.failures))
			w.log.Error("pod cannot be cleaned up yet", "error", err, "failures", st.failures)
			w.r.Sink.Event(pod, v1.EventTypeWarning, "FailedKillPod", err.Error())
		})
	})
}

// takeDown removes a stopped pod's containers and sandbox. Groups come after
// containers, which live in them.
func (r *Runner) takeDown(ctx context.Context, pod *v1.Pod, ids []string) error {
	uid := string(pod.UID)
	var g errgroup.Group
	g.Go(func() error {
		if pod.Spec.HostNetwork {
			return nil
		}
		if err := r.Network.Detach(ctx, uid); err != nil {
			return fmt.Errorf("detach network: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		var c errgroup.Group
		for _, id := range ids {
			c.Go(func() error { return r.purge(ctx, id) })
		}
		if err := c.Wait(); err != nil {
			return err
		}
		if err := dropConsoles(filepath.Join(r.DataDir, "pods", uid)); err != nil {
			return err
		}
		if err := r.dropFirst(uid); err != nil {
			return err
		}
		if err := r.Volumes.Teardown(ctx, uid); err != nil {
			return err
		}
		if err := r.Cgroups.Remove(QOSClass(pod), uid); err != nil {
			return err
		}
		if err := dropShm(filepath.Join(r.DataDir, "pods", uid, "shm")); err != nil {
			return err
		}
		return os.RemoveAll(filepath.Join(r.DataDir, "pods", uid))
	})
	if err := g.Wait(); err != nil {
		return err // a first process is known by its pin
	}
	if err := r.pins.drop(uid); err != nil {
		return err
	}
	return r.ids.Release(uid)
}

// finish reports the pod gone and ends the worker. Its logs go with it.
func (w *worker) finish(pod *v1.Pod) {
	w.over = true
	if w.isQuiet() {
		return
	}
	if err := w.r.logs.remove(w.r.LogDir, logName(pod)); err != nil {
		w.log.Warn("logs of a deleted pod could not be removed", "error", err)
	}
	w.r.Sink.Gone(pod)
}

// finished reports whether every container has ended for good. Sidecars and
// ephemeral containers do not keep a pod alive.
func (w *worker) finished(pod *v1.Pod) bool {
	if terminal(pod.Status.Phase) {
		return true
	}
	begun := w.begun()
	for _, s := range w.slots {
		switch s.role {
		case roleInit:
			if s.failed(pod) {
				return true
			}
			if !begun && !s.succeeded() {
				return false
			}
		case roleMain:
			if s.current == nil || s.running() || s.restartable(pod) {
				return false
			}
		}
	}
	return true
}

// failed reports whether an init container has ended badly and for good.
func (s *slot) failed(pod *v1.Pod) bool {
	return s.current != nil && s.current.exit != nil && s.current.exit.ExitCode != 0 && !s.restartable(pod)
}
