package runner

import (
	"fmt"
	"path/filepath"
	"strconv"
)

// processesOf is the process namespace of a running container of the pod, for
// an ephemeral one that looks at it.
func (w *worker) processesOf(container string) (string, error) {
	s := w.slot(container)
	if s == nil || !s.running() || s.current.pid == 0 {
		return "", fmt.Errorf("unable to find target container %s", container)
	}
	return filepath.Join("/proc", strconv.Itoa(s.current.pid), "ns", "pid"), nil
}
