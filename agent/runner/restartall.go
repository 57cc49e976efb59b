package runner

import (
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/kubelet/status"
)

// messageRestartingAll is what the kubelet says of each container that goes.
const messageRestartingAll = "The container is removed because RestartAllContainers in place"

// restartsAll reports whether the slot ended with a code that restarts the
// whole pod in place (KEP-5532).
func (s *slot) restartsAll() bool {
	if s.role == roleEphemeral || s.current == nil || s.current.exit == nil {
		return false
	}
	rule, ok := podutil.FindMatchingContainerRestartRule(*s.spec, s.current.exit.ExitCode)
	return ok && rule.Action == v1.ContainerRestartRuleActionRestartAllContainers
}

// restartAllStep ends all containers and then forgets them: the pod begins
// again with its first init container, in the sandbox and with the volumes it
// has. Unlike the kubelet, it keeps the back-off of the container that ended,
// so that one that always ends so does not restart its pod without a pause.
func (w *worker) restartAllStep(pod *v1.Pod) (time.Time, bool) {
	running := false
	for _, s := range w.slots {
		if s.role != roleEphemeral && s.running() {
			running = true
			w.kill(pod, s, "killing", 0)
		}
	}
	if running {
		return w.endings(pod, atOnce), false
	}
	waits := false
	for _, s := range w.slots {
		if s.role != roleEphemeral {
			w.forget(s)
			waits = waits || now().Before(s.retryAt)
		}
	}
	// What starts at once does so in the shim that is there, rather than meet one
	// that ends with the last of its containers.
	if waits {
		w.dropRetired()
	}
	w.restartingAll = false
	return time.Time{}, true
}

func (w *worker) forget(s *slot) {
	s.done = false
	if s.current == nil {
		return
	}
	exit := s.current.exit
	if s.restartsAll() {
		s.retryAt = s.crash.until(exit.FinishedAt.Time)
		s.crash.next(exit.FinishedAt.Time, now())
	}
	s.restarts = s.attempt()
	w.retire(s)
	s.current = nil
	s.last = &v1.ContainerStateTerminated{Reason: reasonRestartingAll, Message: messageRestartingAll, ExitCode: exitKilled}
	s.waiting = v1.ContainerStateWaiting{Reason: reasonRestartingAll, Message: messageRestartingAll}
}

// allRestarting is the condition that says so meanwhile.
func (w *worker) allRestarting(phase v1.PodPhase) v1.PodCondition {
	c := v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionFalse}
	switch {
	case phase == v1.PodSucceeded:
		c.Reason = status.PodCompleted
	case phase == v1.PodFailed:
		c.Reason = status.PodFailed
	case w.restartingAll:
		c.Status, c.Reason, c.Message = v1.ConditionTrue, status.RestartAllContainersStarted, "container exited with restart policy rule"
	}
	return c
}
