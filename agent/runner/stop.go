package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// minGrace is the least time a container gets after its stop signal, as with
// the kubelet.
const minGrace = time.Second

// stopping is a pod on its way out.
type stopping struct {
	deadline time.Time
	cleaning bool
	clean    bool
	failures int
	retryAt  time.Time
}

// grace is how long the pod's containers get from now.
func grace(pod *v1.Pod) time.Duration {
	seconds := int64(30)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		seconds = *g
	}
	return max(time.Duration(seconds)*time.Second, minGrace)
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
		w.publish(pod)
		w.finish(pod)
		return time.Time{}
	case st.cleaning:
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
		w.released = true
		w.stop = nil
	case w.stop.cleaning:
	case now().Before(w.stop.retryAt):
		return w.stop.retryAt
	default:
		w.clean(ctx, pod)
	}
	return time.Time{}
}

// stopContainers signals what runs; sidecars only after the main containers.
// It reports whether something still runs, and when to look again.
func (w *worker) stopContainers(pod *v1.Pod) (time.Time, bool) {
	var mains, sidecars []*slot
	for _, s := range w.slots {
		switch {
		case !s.running():
		case s.role == roleSidecar:
			sidecars = append(sidecars, s)
		default:
			mains = append(mains, s)
		}
	}
	if len(mains)+len(sidecars) == 0 {
		return time.Time{}, false
	}
	overdue := !now().Before(w.stop.deadline)
	targets := mains
	if len(mains) == 0 || overdue {
		targets = append(targets, sidecars...)
	}
	for _, s := range targets {
		w.signal(pod, s, overdue)
	}
	if overdue {
		return time.Time{}, true
	}
	return w.stop.deadline, true
}

func (w *worker) signal(pod *v1.Pod, s *slot, kill bool) {
	inst := s.current
	sig := inst.stopSig
	if kill {
		sig = unix.SIGKILL
	} else if inst.signalled {
		return
	}
	if !inst.killing {
		w.r.Sink.Event(pod, v1.EventTypeNormal, "Killing", "Stopping container "+s.spec.Name)
	}
	inst.killing = true
	inst.endProbes()
	if !kill && w.preStop(pod, s, grace(pod)) {
		return
	}
	inst.signalled = true
	// With a process namespace of its own the first process takes all others
	// with it; without, only runc knows the others.
	if inst.pidfd >= 0 && !(kill && pod.Spec.HostPID) {
		if err := unix.PidfdSendSignal(inst.pidfd, sig, nil, 0); err == nil || errors.Is(err, unix.ESRCH) {
			return
		}
	}
	w.jobs.Go(func() {
		_, err := w.r.Client.TaskService().Kill(w.r.ctx, &tasks.KillRequest{ContainerID: inst.id, Signal: uint32(sig), All: kill})
		if err = errgrpc.ToNative(err); err != nil && w.r.ctx.Err() == nil {
			w.log.Warn("container could not be signalled", "container", inst.id, "signal", sig.String(), "error", err)
		}
	})
}

// clean takes everything of the pod away, in the background.
func (w *worker) clean(ctx context.Context, pod *v1.Pod) {
	w.stop.cleaning = true
	ids := w.leftovers()
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
				st.clean = true
				w.box = sandbox{}
				return
			}
			st.failures++
			st.retryAt = now().Add(retryAfter(st.failures))
			w.log.Error("pod cannot be cleaned up yet", "error", err, "failures", st.failures)
			w.r.Sink.Event(pod, v1.EventTypeWarning, "FailedKillPod", err.Error())
		})
	})
}

// leftovers are the ids of everything made for the pod's containers.
func (w *worker) leftovers() []string {
	var ids []string
	for _, s := range w.slots {
		if s.current != nil {
			ids = append(ids, s.current.id)
		}
		if s.prepared != nil {
			ids = append(ids, s.prepared.id)
			s.prepared = nil
		}
	}
	return ids
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
	err := g.Wait()
	return errors.Join(err, r.pins.drop(uid))
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

// finished reports whether every container has ended for good.
func (w *worker) finished(pod *v1.Pod) bool {
	if pod.Status.Phase == v1.PodFailed || pod.Status.Phase == v1.PodSucceeded {
		return true
	}
	for _, s := range w.slots {
		switch {
		case s.role == roleSidecar:
		case s.role == roleInit:
			if s.current != nil && s.current.exit != nil && s.current.exit.ExitCode != 0 && !s.restartable(pod) {
				return true
			}
			if !s.succeeded() {
				return false
			}
		case s.current == nil || s.running() || s.restartable(pod):
			return false
		}
	}
	return true
}
