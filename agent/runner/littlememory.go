package runner

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// runtimeMemoryMin is about what a runtime's own first process takes in the
// container's group before it becomes the container's: Docker refuses less for
// the same reason.
const runtimeMemoryMin = 6 << 20

// tooLittleMemory says of a start that failed for want of memory which limit was
// too small; nil when it was another cause. It leaves out what the runtime said,
// in which the container's id makes each attempt's Event another.
func tooLittleMemory(pod *v1.Pod, c *v1.Container, err error) error {
	text := err.Error()
	if !strings.Contains(text, "cannot allocate memory") && !strings.Contains(text, "memory limit too low") {
		return nil
	}
	limit, whose := c.Resources.Limits.Memory(), "resources.limits.memory of the container"
	if pod.Spec.Resources != nil {
		if l := pod.Spec.Resources.Limits.Memory(); !l.IsZero() && (limit.IsZero() || l.Cmp(*limit) < 0) {
			limit, whose = l, "resources.limits.memory of the pod"
		}
	}
	if limit.IsZero() || limit.Value() >= 2*runtimeMemoryMin {
		return nil
	}
	return fmt.Errorf("%s, %s, is too small to start it: the runtime alone needs about %dMi; raise the limit", whose, limit, runtimeMemoryMin>>20)
}
