package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// featuresTimeout bounds `runc features`, which only prints.
const featuresTimeout = 10 * time.Second

// readOnlyMounts finds out, when first asked, whether read-only mounts can
// take the mounts below them along: runc 1.1 with Linux 5.12. Asking costs a
// process, so nobody does until a pod needs it.
type readOnlyMounts struct {
	once      sync.Once
	recursive bool
}

func (p *readOnlyMounts) supported() bool {
	p.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), featuresTimeout)
		defer cancel()
		out, err := exec.CommandContext(ctx, "runc", "features").Output()
		var features struct {
			MountOptions []string `json:"mountOptions"`
		}
		if err != nil || json.Unmarshal(out, &features) != nil {
			return // an older runc has no such command
		}
		err = unix.MountSetattr(-1, "", 0, &unix.MountAttr{})
		p.recursive = slices.Contains(features.MountOptions, "rro") && !errors.Is(err, unix.ENOSYS)
	})
	return p.recursive
}

// recursiveReadOnly reports whether a mount is to be read-only with all that
// is mounted below it.
func (r *Runner) recursiveReadOnly(m *v1.VolumeMount) (bool, error) {
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
		return r.readOnly.supported(), nil
	case v1.RecursiveReadOnlyEnabled:
		if !r.readOnly.supported() {
			return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", m.Name)
		}
		return true, nil
	}
	return false, fmt.Errorf("unknown recursive read-only mode %q", *m.RecursiveReadOnly)
}

// mountStatus is what a container's status says of its mounts. They never
// change, so a slot has them once.
func (w *worker) mountStatus(s *slot) []v1.VolumeMountStatus {
	if s.mounts != nil || len(s.spec.VolumeMounts) == 0 {
		return s.mounts
	}
	for i := range s.spec.VolumeMounts {
		m := &s.spec.VolumeMounts[i]
		st := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if on, err := w.r.recursiveReadOnly(m); err == nil && on {
				mode = v1.RecursiveReadOnlyEnabled
			}
			st.RecursiveReadOnly = &mode
		}
		s.mounts = append(s.mounts, st)
	}
	return s.mounts
}
