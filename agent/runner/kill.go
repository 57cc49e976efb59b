package runner

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

const (
	// minGrace is the least time between a container's stop signal and its end
	// by force, also when its grace is over: the kubelet's.
	minGrace = 2 * time.Second
	// killRepeat is the wait before SIGKILL is sent again to what should be dead.
	killRepeat = 5 * time.Second
)

// ending is a container on its way out. Its grace holds the preStop hook, the
// wait for containers that stop before it, and the time after its signal.
type ending struct {
	deadline    time.Time // the grace is over then
	hookRunning bool
	signalledAt time.Time // zero before the stop signal
	killedAt    time.Time // zero before SIGKILL
	// forcing: its group is being killed; forced: that was told.
	forcing, forced bool
}

// killAt is when SIGKILL is due, once the stop signal was sent.
func (e *ending) killAt() time.Time {
	if !e.killedAt.IsZero() {
		return e.killedAt.Add(killRepeat)
	}
	return later(e.deadline, e.signalledAt.Add(minGrace))
}

// kill begins the end of one container: its preStop hook, then its stop
// signal, then SIGKILL when grace is over.
func (w *worker) kill(pod *v1.Pod, s *slot, message string, grace time.Duration) {
	inst := s.current
	if inst.killing {
		return
	}
	inst.killing = true
	inst.end.deadline = now().Add(grace)
	inst.endHealth()
	inst.endHook()
	w.event(pod, s, v1.EventTypeNormal, "Killing", message)
	if grace > 0 {
		w.preStop(pod, s, grace)
	}
	w.poke()
}

// endings brings forward the containers that are to end, and says when to
// look again. mayTerm says whose turn it is.
func (w *worker) endings(pod *v1.Pod, mayTerm func(*slot) bool) time.Time {
	var next time.Time
	for _, s := range w.slots {
		if !s.running() || !s.current.killing {
			continue
		}
		e := &s.current.end
		if e.signalledAt.IsZero() {
			if now().Before(e.deadline) && (e.hookRunning || !mayTerm(s)) {
				next = earlier(next, e.deadline)
				continue
			}
			e.signalledAt = now()
			w.signal(pod, s, s.current.stopSig)
		}
		if !now().Before(e.killAt()) {
			if !e.killedAt.IsZero() {
				w.force(pod, s)
			}
			e.killedAt = now()
			w.signal(pod, s, unix.SIGKILL)
		}
		next = earlier(next, e.killAt())
	}
	return next
}

// atOnce is the turn of a container that ends alone.
func atOnce(*slot) bool { return true }

// inOrder is the turn in a pod that ends as a whole: sidecars follow the main
// containers, the last declared first (KEP-753).
func (w *worker) inOrder(s *slot) bool {
	if s.role != roleSidecar {
		return true
	}
	behind := false
	for _, o := range w.slots {
		if o == s {
			behind = true
			continue
		}
		if o.running() && (o.role == roleMain || (behind && o.role == roleSidecar)) {
			return false
		}
	}
	return true
}

// signal sends sig to a container, and SIGKILL to all that is in it.
func (w *worker) signal(pod *v1.Pod, s *slot, sig unix.Signal) {
	inst := s.current
	all := sig == unix.SIGKILL
	// With a process namespace of its own the first process takes all others
	// with it; without, only runc knows the others.
	if inst.pidfd >= 0 && !(all && (pod.Spec.HostPID || sharesProcesses(pod) || s.target != "")) {
		if err := unix.PidfdSendSignal(inst.pidfd, sig, nil, 0); err == nil || errors.Is(err, unix.ESRCH) {
			return
		}
	}
	w.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(w.r.ctx, killRepeat)
		defer cancel()
		_, err := w.r.Client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: inst.id, Signal: uint32(sig), All: all})
		if err = errgrpc.ToNative(err); err != nil && w.r.ctx.Err() == nil {
			w.log.Warn("container could not be signalled", "container", inst.id, "signal", sig.String(), "error", err)
		}
	})
}
