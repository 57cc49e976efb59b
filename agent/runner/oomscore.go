package runner

import (
	"log/slog"
	"os"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/qos"
)

// oomScore knows the lowest score this daemon may give to a container.
type oomScore struct{ floor int }

// probe finds out once whether scores may be lowered: without
// CAP_SYS_RESOURCE the kernel refuses, and runc then fails obscurely.
func (o *oomScore) probe(log *slog.Logger) {
	o.floor = -1000
	const file = "/proc/self/oom_score_adj"
	data, err := os.ReadFile(file)
	if err != nil {
		return
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(own-1)), 0); err != nil {
		o.floor = own
		log.Info("container oom scores are clamped: lowering them needs CAP_SYS_RESOURCE", "lowest", own)
		return
	}
	_ = os.WriteFile(file, []byte(strconv.Itoa(own)), 0)
}

// forContainer is the kubelet's score, or the lowest this daemon may give.
func (o *oomScore) forContainer(pod *v1.Pod, c *v1.Container, hostMemory int64) int {
	return max(qos.GetContainerOOMScoreAdjust(pod, c, max(hostMemory, 1)), o.floor)
}
