package runner

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
)

// makeVolumes makes what an ephemeral container mounts and no container did
// before it came. The others stay as they are: their content is the refresh's,
// and what they are filled from may be gone.
func (w *worker) makeVolumes(ctx context.Context, pod *v1.Pod, s *slot) error {
	names := make([]string, 0, len(s.spec.VolumeMounts))
	for _, m := range s.spec.VolumeMounts {
		names = append(names, m.Name)
	}
	err := w.r.Volumes.SetupMissing(ctx, pod, names)
	w.refresh.due = earlier(w.refresh.due, w.r.Volumes.RefreshAt(pod.UID))
	return err
}

// processesOf is the process namespace of a running container of the pod, for
// an ephemeral one that looks at it.
func (w *worker) processesOf(container string) (string, error) {
	s := w.slot(container)
	if s == nil || !s.running() || s.current.pid == 0 {
		return "", fmt.Errorf("unable to find target container %s", container)
	}
	return filepath.Join("/proc", strconv.Itoa(s.current.pid), "ns", "pid"), nil
}
