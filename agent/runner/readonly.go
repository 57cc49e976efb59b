package runner

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// recursiveReadOnly reports whether a mount is to be read-only with all that
// is mounted below it. What the runtime can do is asked only for pods that
// want it: asking costs a process.
func (w *worker) recursiveReadOnly(m *v1.VolumeMount) (bool, error) {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	if !m.ReadOnly {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", m.Name)
	}
	if m.MountPropagation != nil && *m.MountPropagation != v1.MountPropagationNone {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", m.Name, *m.MountPropagation)
	}
	switch *m.RecursiveReadOnly {
	case v1.RecursiveReadOnlyIfPossible:
		return w.canRecursiveReadOnly(), nil
	case v1.RecursiveReadOnlyEnabled:
		if !w.canRecursiveReadOnly() {
			return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", m.Name)
		}
		return true, nil
	}
	return false, fmt.Errorf("unknown recursive read-only mode %q", *m.RecursiveReadOnly)
}

// canRecursiveReadOnly is false as long as the pod has no runtime.
func (w *worker) canRecursiveReadOnly() bool {
	return w.box.runtime != nil && w.r.Runtimes.Features(w.r.ctx, *w.box.runtime).RecursiveReadOnly
}

// mountStatus is what a container's status says of its mounts. They never
// change once there is a sandbox, so a slot has them once.
func (w *worker) mountStatus(s *slot) []v1.VolumeMountStatus {
	if s.mounts != nil || len(s.spec.VolumeMounts) == 0 {
		return s.mounts
	}
	out := make([]v1.VolumeMountStatus, 0, len(s.spec.VolumeMounts))
	for i := range s.spec.VolumeMounts {
		m := &s.spec.VolumeMounts[i]
		st := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if on, err := w.recursiveReadOnly(m); err == nil && on {
				mode = v1.RecursiveReadOnlyEnabled
			}
			st.RecursiveReadOnly = &mode
		}
		out = append(out, st)
	}
	if w.box.runtime != nil {
		s.mounts = out
	}
	return out
}
