package runner

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
)

// startStep makes the sandbox and starts what may start now, in the kubelet's
// order: ephemeral containers at any time, init containers and sidecars one
// after another, the main containers after them.
func (w *worker) startStep(ctx context.Context, pod *v1.Pod) time.Time {
	if err := w.checkSupported(pod); err != nil {
		w.refuse(pod, err)
		return time.Time{}
	}
	if !w.box.ready {
		w.publish(pod)
		if next, ok := w.prepare(ctx, pod); !ok {
			return next
		}
		w.beginRefresh(pod)
	}
	w.resume(pod)
	w.replaceChanged(pod)
	next := w.startEphemeral(ctx, pod)
	at, done := w.startInit(ctx, pod)
	next = earlier(next, at)
	if !done {
		return next
	}
	return earlier(next, w.startMains(ctx, pod))
}

func (w *worker) startEphemeral(ctx context.Context, pod *v1.Pod) time.Time {
	var next time.Time
	for _, s := range w.slots {
		if s.role == roleEphemeral {
			at, _ := w.ensure(ctx, pod, s)
			next = earlier(next, at)
		}
	}
	return next
}

// startInit runs what comes before the main containers and reports whether
// they may start. Once one of them has, sidecars are only kept running.
func (w *worker) startInit(ctx context.Context, pod *v1.Pod) (time.Time, bool) {
	begun := w.begun()
	var next time.Time
	for _, s := range w.slots {
		switch {
		case s.role == roleSidecar:
		case s.role == roleInit && !begun && !s.succeeded():
		default:
			continue
		}
		at, up := w.ensure(ctx, pod, s)
		next = earlier(next, at)
		if !begun && (!up || s.role == roleInit) {
			return next, false
		}
	}
	return next, true
}

// begun reports whether a main container has ever started in this sandbox.
func (w *worker) begun() bool {
	for _, s := range w.slots {
		if s.role == roleMain && s.current != nil && !s.current.old {
			return true
		}
	}
	return false
}

// startMains starts the main containers in order. One with a postStart hook
// holds up those behind it until the hook is done, which people rely on.
func (w *worker) startMains(ctx context.Context, pod *v1.Pod) time.Time {
	var next time.Time
	for _, s := range w.slots {
		if s.role != roleMain {
			continue
		}
		at, _ := w.ensure(ctx, pod, s)
		next = earlier(next, at)
		if s.hookPending || (s.hasPostStart() && s.pull.running) {
			break
		}
	}
	return next
}

func (s *slot) hasPostStart() bool {
	return s.spec.Lifecycle != nil && s.spec.Lifecycle.PostStart != nil
}

// refuse says what is not supported, once, and leaves the pod waiting.
func (w *worker) refuse(pod *v1.Pod, err error) {
	for _, s := range w.slots {
		if s.waiting.Message != err.Error() {
			s.waiting = v1.ContainerStateWaiting{Reason: reasonConfigError, Message: err.Error()}
			if s == w.slots[0] {
				w.r.Sink.Event(pod, v1.EventTypeWarning, "Unsupported", err.Error())
			}
		}
	}
}

// ensure runs the slot if it should run and may. It reports when to look
// again, and whether the container is up.
func (w *worker) ensure(ctx context.Context, pod *v1.Pod, s *slot) (time.Time, bool) {
	if s.running() {
		return time.Time{}, s.role != roleSidecar || (s.started && !s.hookPending)
	}
	if !s.restartable(pod) {
		return time.Time{}, false
	}
	if wait := s.notBefore(); now().Before(wait) {
		if !wait.Equal(s.retryAt) {
			w.backsOff(pod, s)
		}
		return wait, false
	}
	if next, ok := w.ensureImage(ctx, pod, s); !ok {
		return next, false
	}
	if next, ok := w.ensureImageVolumes(ctx, pod, s); !ok {
		return next, false
	}
	if err := acquire(w.startable, w.r.starts); err != nil {
		return time.Time{}, false
	}
	err := w.start(ctx, pod, s)
	<-w.r.starts
	if err != nil {
		return w.startFailed(pod, s, err), false
	}
	return time.Time{}, s.role != roleSidecar || (s.started && !s.hookPending)
}

// replaceChanged ends containers whose image in the specification is another
// one now; the new image's start follows.
func (w *worker) replaceChanged(pod *v1.Pod) {
	for _, s := range w.slots {
		if !s.running() || s.current.killing || s.role == roleInit || s.current.asked == "" || s.current.asked == s.spec.Image {
			continue
		}
		s.current.again = true
		w.kill(pod, s, containerWord(s)+s.spec.Name+" definition changed, will be restarted", grace(pod))
	}
}

// containerWord begins what events say about a container.
func containerWord(s *slot) string {
	if s.role == roleSidecar {
		return "Init container "
	}
	return "Container "
}
