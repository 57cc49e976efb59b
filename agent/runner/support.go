package runner

import (
	"fmt"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/volume"
)

// checkSupported names the first field of the pod that would be ignored.
func (w *worker) checkSupported(pod *v1.Pod) error {
	if len(pod.Spec.ResourceClaims) > 0 {
		return fmt.Errorf("spec.resourceClaims is %w here", volume.ErrUnsupported)
	}
	if err := checkEnv(&pod.Spec); err != nil {
		return err
	}
	return w.r.Volumes.Check(pod)
}

// checkEnv refuses variables from files that an earlier container writes (KEP-3721).
func checkEnv(spec *v1.PodSpec) error {
	for _, list := range [][]v1.Container{spec.InitContainers, spec.Containers} {
		for _, c := range list {
			for _, v := range c.Env {
				if v.ValueFrom != nil && v.ValueFrom.FileKeyRef != nil {
					return fmt.Errorf("container %s: env %s: valueFrom.fileKeyRef is %w here", c.Name, v.Name, volume.ErrUnsupported)
				}
			}
		}
	}
	return nil
}
