package runner

import v1 "k8s.io/api/core/v1"

// event tells of one container of the pod. Only the pod's worker calls it.
func (w *worker) event(pod *v1.Pod, s *slot, kind, reason, message string) {
	w.r.Sink.ContainerEvent(pod, s.field(), kind, reason, message)
}

// field is where the container is in the pod, as events name it; empty for an
// image volume, whose events are the pod's.
func (s *slot) field() string {
	list := "containers"
	switch s.role {
	case roleImageVolume:
		return ""
	case roleInit, roleSidecar:
		list = "initContainers"
	case roleEphemeral:
		list = "ephemeralContainers"
	}
	return "spec." + list + "{" + s.spec.Name + "}"
}
