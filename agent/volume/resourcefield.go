package volume

import (
	v1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/api/v1/resource"
)

// NodeAllocatable is what this node has for pods; nil when nobody knows.
func (v *Volumes) NodeAllocatable() v1.ResourceList {
	if v.Allocatable == nil {
		return nil
	}
	return v.Allocatable()
}

// ResourceField is the value of a resourceFieldRef as files and variables have
// it: of the container that ref names, or else of own. A container without a
// limit has the pod's, and without that all that the node has for pods
// (allocatable), as with the kubelet.
func ResourceField(ref *v1.ResourceFieldSelector, pod *v1.Pod, own *v1.Container, allocatable v1.ResourceList) (string, error) {
	allocatable = withinPod(pod, allocatable)
	if own == nil || ref.ContainerName != "" && ref.ContainerName != own.Name {
		return resource.ExtractResourceValueByContainerNameAndNodeAllocatable(ref, pod, ref.ContainerName, allocatable)
	}
	own = own.DeepCopy()
	resource.MergeContainerResourceLimits(own, allocatable)
	return resource.ExtractContainerResourceValue(ref, own)
}

// withinPod is what a container of pod can use at most: the pod's own limits
// (KEP-2837) where it has them, and else the node's allocatable.
func withinPod(pod *v1.Pod, allocatable v1.ResourceList) v1.ResourceList {
	if !helpers.IsPodLevelLimitsSet(pod) {
		return allocatable
	}
	allocatable = allocatable.DeepCopy()
	for name := range allocatable {
		limit, ok := pod.Spec.Resources.Limits[name]
		if ok && !limit.IsZero() && helpers.IsSupportedPodLevelResource(name) {
			allocatable[name] = limit
		}
	}
	return allocatable
}
