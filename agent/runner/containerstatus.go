package runner

import (
	v1 "k8s.io/api/core/v1"
)

// exitKilled is the exit code of what was killed, and of what nobody saw end.
const exitKilled = 137

// containerStatus is one container's status, as the kubelet's
// convertToAPIContainerStatuses makes it.
func (w *worker) containerStatus(pod *v1.Pod, s *slot) v1.ContainerStatus {
	before := known(pod, s.role, s.spec.Name)
	cs := v1.ContainerStatus{Name: s.spec.Name, Image: s.spec.Image, RestartCount: s.restarts, VolumeMounts: w.mountStatus(s)}
	if s.role != roleEphemeral {
		started := s.started
		cs.Started, cs.Ready = &started, s.ready && s.started
	}
	if s.role == roleMain && w.r.Devices != nil {
		cs.AllocatedResourcesStatus = w.r.Devices.Status(pod.UID, s.spec.Name)
	}
	cs.LastTerminationState.Terminated = s.last
	if i := s.current; i != nil {
		cs.ContainerID, cs.Image, cs.ImageID, cs.User = containerID(i.id), i.imageName, i.imageID, i.user
		cs.StopSignal = signalName(i.stopSig)
	}
	switch {
	case s.done && s.current == nil:
		return w.rememberedEnd(s, cs, before)
	case s.running() && !s.hookPending:
		cs.State.Running = &v1.ContainerStateRunning{StartedAt: timeOf(s.current.startedAt)}
	case s.running():
		// It counts as running when its postStart hook is done.
		cs.State.Waiting = w.waitingState(s)
	case s.current != nil && (s.waiting.Reason == "" || w.stop != nil || !s.restartable(pod)):
		cs.State.Terminated = s.current.exit
		cs.Ready = s.role == roleInit && s.current.exit.ExitCode == 0
	case s.current != nil:
		cs.State.Waiting = w.waitingState(s)
		cs.LastTerminationState.Terminated = s.current.exit
	case w.stop != nil && before != nil && before.State.Terminated != nil:
		// It ended, was taken away, and the object's deletion is not through:
		// the API refuses to take an end back.
		return *before
	default:
		cs.State.Waiting = w.waitingState(s)
	}
	return cs
}

// rememberedEnd is the status of a container that ended for good and of which
// nothing is left here.
func (w *worker) rememberedEnd(s *slot, cs v1.ContainerStatus, before *v1.ContainerStatus) v1.ContainerStatus {
	if before != nil && before.State.Terminated != nil {
		return *before
	}
	cs.State.Terminated = &v1.ContainerStateTerminated{
		Reason: "Completed", Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally",
	}
	cs.Ready = s.role == roleInit
	return cs
}

// waitingState is why the slot does not run.
func (w *worker) waitingState(s *slot) *v1.ContainerStateWaiting {
	if s.waiting.Reason != "" {
		waiting := s.waiting
		return &waiting
	}
	for _, o := range w.slots {
		if o.role == roleInit || o.role == roleSidecar {
			return &v1.ContainerStateWaiting{Reason: reasonInit}
		}
	}
	return &v1.ContainerStateWaiting{Reason: reasonCreating}
}

// known is what the API last heard of a container; nil if nothing.
func known(pod *v1.Pod, r role, name string) *v1.ContainerStatus {
	all := pod.Status.InitContainerStatuses
	switch r {
	case roleMain:
		all = pod.Status.ContainerStatuses
	case roleEphemeral:
		all = pod.Status.EphemeralContainerStatuses
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}
