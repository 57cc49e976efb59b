package runner

import (
	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// reasonRestartingAll is the reason of containers that end because the rule of
// another restarts the whole pod (KEP-5532).
const reasonRestartingAll = "RestartingAllContainers"

// census counts containers by what the kubelet's getPhase, of which this is
// the logic, tells apart.
type census struct {
	pendingInit, pendingSidecar int
	initFailed                  int // for good
	unknown, running, waiting   int
	stopped, stoppedForGood     int
	succeeded                   int
}

// phaseOf summarises the containers' status. over says that nothing of the pod
// will run again, begun that a main container has started.
func phaseOf(pod *v1.Pod, st *v1.PodStatus, over, begun bool) v1.PodPhase {
	n := count(pod, st)
	switch {
	case n.initFailed > 0:
		return v1.PodFailed
	case n.pendingInit > 0, n.pendingSidecar > 0 && !begun, n.waiting > 0:
		return v1.PodPending
	case n.running > 0 && n.unknown == 0:
		return v1.PodRunning
	case n.running > 0 || n.stopped == 0 || n.unknown > 0:
		return v1.PodPending
	case !over && n.stopped != n.stoppedForGood:
		return v1.PodRunning // something is being restarted
	case n.stopped == n.succeeded:
		return v1.PodSucceeded
	}
	return v1.PodFailed
}

func count(pod *v1.Pod, st *v1.PodStatus) census {
	var n census
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		cs, ok := podutil.GetContainerStatus(st.InitContainerStatuses, c.Name)
		if podutil.IsRestartableInitContainer(c) {
			n.sidecar(&cs, ok)
		} else {
			n.init(pod, c, &cs, ok)
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		cs, ok := podutil.GetContainerStatus(st.ContainerStatuses, c.Name)
		n.main(pod, c, &cs, ok)
	}
	return n
}

// ended is how a container that does not run ended, or nil if it never has.
func ended(cs *v1.ContainerStatus) *v1.ContainerStateTerminated {
	if cs.State.Terminated != nil {
		return cs.State.Terminated
	}
	if cs.State.Waiting != nil {
		return cs.LastTerminationState.Terminated
	}
	return nil
}

func forGood(pod *v1.Pod, c *v1.Container, t *v1.ContainerStateTerminated) bool {
	return t.Reason != reasonRestartingAll && !podutil.ContainerShouldRestart(*c, pod.Spec, t.ExitCode)
}

func (n *census) init(pod *v1.Pod, c *v1.Container, cs *v1.ContainerStatus, known bool) {
	t := ended(cs)
	switch {
	case !known || t == nil:
		n.pendingInit++
	case t.ExitCode != 0 && forGood(pod, c, t):
		n.initFailed++
	}
}

func (n *census) sidecar(cs *v1.ContainerStatus, known bool) {
	switch {
	case !known:
		n.unknown++
	case cs.State.Running != nil:
		n.running++
		if cs.Started == nil || !*cs.Started {
			n.pendingSidecar++
		}
	case cs.State.Waiting != nil && cs.LastTerminationState.Terminated == nil:
		n.waiting++
		n.pendingSidecar++
	}
}

func (n *census) main(pod *v1.Pod, c *v1.Container, cs *v1.ContainerStatus, known bool) {
	t := ended(cs)
	switch {
	case !known:
		n.unknown++
	case cs.State.Running != nil:
		n.running++
	case t == nil:
		n.waiting++
	default:
		n.stopped++
		if forGood(pod, c, t) {
			n.stoppedForGood++
		}
		if cs.State.Terminated != nil && t.ExitCode == 0 {
			n.succeeded++
		}
	}
}
