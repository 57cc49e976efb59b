// Package reserve says what a host has, what it keeps for itself and what is
// left for pods, as the kubelet's node allocatable (KEP-348) does.
//
// Always true: allocatable is capacity less what is reserved and less what the
// hard eviction thresholds keep free; the group of all pods is held to capacity
// less what is reserved, so that eviction comes before the kernel's killer.
//
// The agent calls it. It reads the host and changes nothing.
package reserve

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/kubernetes/pkg/kubelet/eviction"
	evictionapi "k8s.io/kubernetes/pkg/kubelet/eviction/api"
	"k8s.io/kubernetes/pkg/kubelet/stats/pidlimit"

	"shoal/agent/cgroup"
)

// Plan is what the host keeps back.
type Plan struct {
	Reserved   v1.ResourceList         // of cpu, memory, ephemeral-storage, pid
	Thresholds []evictionapi.Threshold // in a stable order
}

// reservable are the names the kubelet reserves.
var reservable = []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, pidlimit.PIDs}

// ParseReserved reads "cpu=500m,memory=1Gi,ephemeral-storage=2Gi,pid=1000".
func ParseReserved(text string) (v1.ResourceList, error) {
	out := v1.ResourceList{}
	for _, part := range fields(text) {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return nil, fmt.Errorf("reserve %q: want NAME=QUANTITY, such as memory=1Gi", part)
		}
		if !slices.Contains(reservable, v1.ResourceName(name)) {
			return nil, fmt.Errorf("reserve %q: only cpu, memory, ephemeral-storage and pid can be reserved", part)
		}
		q, err := resource.ParseQuantity(value)
		switch {
		case err != nil:
			return nil, fmt.Errorf("reserve %q: %w", part, err)
		case q.Sign() < 0:
			return nil, fmt.Errorf("reserve %q: must not be negative", part)
		}
		out[v1.ResourceName(name)] = q
	}
	return out, nil
}

// ParseThresholds reads hard eviction thresholds as the kubelet's flag has them:
// "memory.available<100Mi,nodefs.available<10%". Empty text means the kubelet's
// defaults; as there, text replaces all of them. "none" is no threshold.
func ParseThresholds(text string) ([]evictionapi.Threshold, error) {
	hard := map[string]string{}
	switch {
	case text == "":
		hard = eviction.DefaultEvictionHard
	case text != "none":
		for _, part := range fields(text) {
			signal, value, ok := strings.Cut(part, "<")
			if !ok {
				return nil, fmt.Errorf("eviction threshold %q: want SIGNAL<QUANTITY, such as memory.available<100Mi", part)
			}
			if _, twice := hard[signal]; twice {
				return nil, fmt.Errorf("eviction threshold %q: %s is there twice", part, signal)
			}
			hard[signal] = value
		}
	}
	out, err := eviction.ParseThresholdConfig([]string{"pods"}, hard, nil, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("eviction thresholds %q: %w", text, err)
	}
	slices.SortFunc(out, func(a, b evictionapi.Threshold) int { return strings.Compare(string(a.Signal), string(b.Signal)) })
	return out, nil
}

func fields(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

// Check reports a plan that leaves pods nothing of a resource.
func (p Plan) Check(capacity v1.ResourceList) error {
	var errs []error
	for name, kept := range p.Reserved {
		if has, ok := capacity[name]; ok && kept.Cmp(has) >= 0 {
			errs = append(errs, fmt.Errorf("reserved %s=%s leaves nothing of the host's %s for pods", name, kept.String(), has.String()))
		}
	}
	return errors.Join(errs...)
}

// Allocatable is what pods may ask for, with a name for everything in capacity.
func (p Plan) Allocatable(capacity v1.ResourceList) v1.ResourceList {
	out := v1.ResourceList{}
	kept := p.kept(capacity)
	for name, has := range capacity {
		left := has.DeepCopy()
		left.Sub(p.Reserved[name])
		left.Sub(kept[name])
		out[name] = atLeastZero(left)
	}
	// Memory in huge pages is no memory of the other kind.
	memory := out[v1.ResourceMemory]
	for name, has := range capacity {
		if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
			memory.Sub(has)
		}
	}
	if _, ok := out[v1.ResourceMemory]; ok {
		out[v1.ResourceMemory] = atLeastZero(memory)
	}
	return out
}

// kept is what the hard thresholds keep free.
func (p Plan) kept(capacity v1.ResourceList) v1.ResourceList {
	out := v1.ResourceList{}
	for _, t := range p.Thresholds {
		name := v1.ResourceName("")
		switch t.Signal {
		case evictionapi.SignalMemoryAvailable:
			name = v1.ResourceMemory
		case evictionapi.SignalNodeFsAvailable:
			name = v1.ResourceEphemeralStorage
		}
		if has, ok := capacity[name]; ok && t.GracePeriod == 0 {
			out[name] = *evictionapi.GetThresholdQuantity(t.Value, &has)
		}
	}
	return out
}

// Group is what all pods together are held to.
func (p Plan) Group(capacity v1.ResourceList) cgroup.Limits {
	left := func(name v1.ResourceName) resource.Quantity {
		has := capacity[name]
		has = has.DeepCopy()
		has.Sub(p.Reserved[name])
		return atLeastZero(has)
	}
	memory := left(v1.ResourceMemory)
	limits := cgroup.Limits{CPUShares: cgroup.Shares(left(v1.ResourceCPU)), MemoryBytes: memory.Value()}
	if kept, ok := p.Reserved[pidlimit.PIDs]; ok {
		if of := maxTasks(); of > kept.Value() {
			limits.PIDs = of - kept.Value()
		}
	}
	return limits
}

func maxTasks() int64 {
	stats, err := pidlimit.Stats()
	if err != nil || stats.MaxPID == nil {
		return 0
	}
	return *stats.MaxPID
}

func atLeastZero(q resource.Quantity) resource.Quantity {
	if q.Sign() < 0 {
		q.Set(0)
	}
	return q
}
