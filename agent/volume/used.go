package volume

import (
	v1 "k8s.io/api/core/v1"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// used are the indices of the pod's volumes that some container, of any kind,
// mounts or has as a device. The others are never made, so that what is wrong
// with them keeps no pod from starting: the kubelet's rule.
func used(pod *v1.Pod) []int {
	mounts, devices, _ := volumeutil.GetPodVolumeNames(pod, false)
	out := make([]int, 0, len(pod.Spec.Volumes))
	for i := range pod.Spec.Volumes {
		if name := pod.Spec.Volumes[i].Name; mounts.Has(name) || devices.Has(name) {
			out = append(out, i)
		}
	}
	return out
}
