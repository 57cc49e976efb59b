package agent

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
)

// fits checks a pod's requests against what the others on the host leave.
func fits(pod *v1.Pod, others []*v1.Pod, allocatable v1.ResourceList) (reason, message string) {
	used := v1.ResourceList{}
	count := int64(0)
	for _, o := range others {
		if o.UID == pod.UID || o.Status.Phase == v1.PodSucceeded || o.Status.Phase == v1.PodFailed {
			continue
		}
		count++
		for name, q := range helpers.PodRequests(o, helpers.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	if limit, ok := allocatable[v1.ResourcePods]; ok && count+1 > limit.Value() {
		return "OutOfpods", outOf(v1.ResourcePods, 1, count, limit.Value())
	}
	for name, want := range helpers.PodRequests(pod, helpers.PodResourcesOptions{}) {
		if want.IsZero() {
			continue
		}
		have := allocatable[name]
		taken := used[name]
		if amount(name, want)+amount(name, taken) > amount(name, have) {
			return "OutOf" + string(name), outOf(name, amount(name, want), amount(name, taken), amount(name, have))
		}
	}
	return "", ""
}

func amount(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func outOf(name v1.ResourceName, want, used, capacity int64) string {
	return fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, want, used, capacity)
}
