package runner

import (
	"log/slog"
	"os"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// The kubelet's scores by QoS class.
const (
	guaranteedOOMScore = -997
	bestEffortOOMScore = 1000
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

func (o *oomScore) forContainer(qos v1.PodQOSClass, c *v1.Container, hostMemory int64) int {
	score := bestEffortOOMScore
	switch qos {
	case v1.PodQOSGuaranteed:
		score = guaranteedOOMScore
	case v1.PodQOSBurstable:
		// The more of the host's memory it asked for, the later it goes.
		request := c.Resources.Requests.Memory().Value()
		score = 1000
		if hostMemory > 0 {
			score = int(1000 - 1000*request/hostMemory)
		}
		score = min(max(score, 1000+guaranteedOOMScore), bestEffortOOMScore-1)
	}
	return max(score, o.floor)
}
