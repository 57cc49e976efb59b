package runner

import (
	"os"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// logUID takes the pod's uid from the name of its log directory; names not
// of the kubelet's form are none of ours.
func logUID(name string) (string, bool) {
	parts := strings.Split(name, "_")
	if len(parts) != 3 {
		return "", false
	}
	return parts[2], true
}

// up notes that a container runs; without probes it is ready at once.
func (w *worker) up(pod *v1.Pod, s *slot) {
	s.started, s.ready = true, true
}

// terminationMessageMax is the API's bound on a container's last words.
const terminationMessageMax = 4096

// terminationMessage is what the container wrote about its end.
func (w *worker) terminationMessage(pod *v1.Pod, s *slot, inst *instance, code int32) string {
	if s.spec.TerminationMessagePolicy != v1.TerminationMessageFallbackToLogsOnError || code == 0 {
		return ""
	}
	data, err := os.ReadFile(LogPath(w.r.LogDir, pod, s.spec.Name, inst.attempt))
	if err != nil {
		return ""
	}
	return string(data[max(0, len(data)-terminationMessageMax):])
}
