package runner

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/kubelet/util/format"
)

// The kubelet's back-off for containers that keep dying and for images that
// cannot be pulled.
const (
	backoffFirst = 10 * time.Second
	backoffMax   = 5 * time.Minute
	// backoffReset is how long a container must have run to start over.
	backoffReset = 10 * time.Minute
)

// backoff is the account of one container that keeps ending, with the rules of
// client-go's flowcontrol.Backoff as the kubelet sets it up: the first restart
// is immediate, the second waits.
type backoff struct {
	wait  time.Duration // after the current attempt's end; zero is none
	since time.Time     // when the current attempt was begun
}

// until is when the next attempt may begin after an end at finished; zero is
// at once.
func (b backoff) until(finished time.Time) time.Time {
	if b.wait == 0 || finished.Sub(b.since) > backoffReset {
		return time.Time{}
	}
	return finished.Add(b.wait)
}

// next accounts for an attempt that begins at the time given.
func (b *backoff) next(finished, at time.Time) {
	if b.wait == 0 || finished.Sub(b.since) > backoffReset {
		b.wait = backoffFirst
	} else {
		b.wait = min(2*b.wait, backoffMax)
	}
	b.since = at
}

// restartable reports whether another attempt follows the one that ended, by
// the container's own rules and policy, then the pod's (KEP-5307).
func (s *slot) restartable(pod *v1.Pod) bool {
	if s.current == nil || s.current.exit == nil {
		return !s.done
	}
	code := s.current.exit.ExitCode
	switch {
	case s.role == roleEphemeral:
		return false
	case s.current.again:
		return true
	case s.role == roleInit && code == 0:
		return false
	}
	return podutil.ContainerShouldRestart(*s.spec, pod.Spec, code)
}

// comesAgain reports whether the container has ended and is started again
// whatever its exit code, which the policies would judge otherwise.
func (s *slot) comesAgain() bool {
	return s.current != nil && s.current.exit != nil && s.current.again
}

// restartedAfterKill reports whether a container that was killed for its
// health or a change is started again. Its exit code does not matter then.
func (s *slot) restartedAfterKill(pod *v1.Pod) bool {
	if p := s.spec.RestartPolicy; p != nil {
		return *p != v1.ContainerRestartPolicyNever
	}
	return pod.Spec.RestartPolicy != v1.RestartPolicyNever
}

// exited notes the end of the current attempt.
func (s *slot) exited(t *v1.ContainerStateTerminated) {
	s.current.exit = t
	s.current.closeFD()
	s.current.endProbes()
	s.current.endHook()
	s.ready, s.started, s.hookPending = false, false, false
	s.told = false
}

// notBefore is when the slot may start; zero is at once.
func (s *slot) notBefore() time.Time {
	if s.current == nil || s.current.exit == nil {
		return s.retryAt
	}
	return later(s.retryAt, s.crash.until(s.current.exit.FinishedAt.Time))
}

// backsOff says that the container waits before it is started again.
func (w *worker) backsOff(pod *v1.Pod, s *slot) {
	message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", s.crash.wait, s.spec.Name, format.Pod(pod))
	s.waiting = v1.ContainerStateWaiting{Reason: reasonCrashLoop, Message: message}
	if !s.told {
		s.told = true
		w.event(pod, s, v1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", s.spec.Name, format.Pod(pod)))
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
