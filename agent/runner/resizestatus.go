package runner

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	helpers "k8s.io/component-helpers/resource"

	"shoal/agent/cgroup"
)

// fillResources says what a container was given and what it has.
func fillResources(s *slot, cs *v1.ContainerStatus) {
	if s.role == roleEphemeral {
		return
	}
	cs.AllocatedResources = s.spec.Resources.Requests
	has := s.spec.Resources
	if s.running() {
		has = s.current.resources
	}
	cs.Resources = has.DeepCopy()
}

// fillPodResources does the same for the pod as a whole (KEP-5419).
func (w *worker) fillPodResources(pod *v1.Pod, st *v1.PodStatus) {
	has := w.actual(pod)
	st.AllocatedResources = helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	st.Resources = &v1.ResourceRequirements{
		Requests: helpers.PodRequests(has, helpers.PodResourcesOptions{}),
		Limits:   helpers.PodLimits(has, helpers.PodResourcesOptions{}),
	}
}

// actual is the pod with the resources its running containers have, the same one
// when these are the ones it should have.
func (w *worker) actual(pod *v1.Pod) *v1.Pod {
	differs := false
	for _, s := range w.slots {
		differs = differs || s.running() && s.role != roleEphemeral && !equal(&s.current.resources, &s.spec.Resources)
	}
	if !differs {
		return pod
	}
	has := *pod
	replace := func(list []v1.Container) []v1.Container {
		out := append([]v1.Container{}, list...)
		for i := range out {
			if s := w.slot(out[i].Name); s != nil && s.running() {
				out[i].Resources = s.current.resources
			}
		}
		return out
	}
	has.Spec.InitContainers, has.Spec.Containers = replace(pod.Spec.InitContainers), replace(pod.Spec.Containers)
	return &has
}

func equal(a, b *v1.ResourceRequirements) bool {
	return sameRequest(a, b) && a.Limits.Memory().Cmp(*b.Limits.Memory()) == 0 && a.Limits.Cpu().Cmp(*b.Limits.Cpu()) == 0
}

// adoptResources gives an adopted container the resources the API last heard
// that it has.
func (w *worker) adoptResources(pod *v1.Pod, s *slot, inst *instance) {
	inst.resources = s.spec.Resources
	if cs := known(pod, s.role, s.spec.Name); cs != nil && cs.Resources != nil && cs.ContainerID == containerID(inst.id) {
		inst.resources = *cs.Resources
	}
	c := *s.spec
	c.Resources = inst.resources
	inst.limits = cgroup.ForContainer(pod, &c)
}

// resizeConditions are the pod's conditions about a resize, none if there is
// none.
func (w *worker) resizeConditions(before *v1.PodStatus) []v1.PodCondition {
	var out []v1.PodCondition
	add := func(kind v1.PodConditionType, reason, message string, generation int64) {
		c := v1.PodCondition{Type: kind, Status: v1.ConditionTrue, Reason: reason, Message: message, ObservedGeneration: generation, LastTransitionTime: metav1.Now().Rfc3339Copy()}
		if _, old := podutil.GetPodConditionFromList(before.Conditions, kind); old != nil && old.Reason == reason {
			c.LastTransitionTime = old.LastTransitionTime
		}
		out = append(out, c)
	}
	if p := w.resize.pending; p != nil {
		add(v1.PodResizePending, p.Reason, p.Message, p.Generation)
	}
	if w.resize.generation != 0 {
		reason := ""
		if w.resize.failure != "" {
			reason = v1.PodReasonError
		}
		add(v1.PodResizeInProgress, reason, w.resize.failure, w.resize.generation)
	}
	return out
}
