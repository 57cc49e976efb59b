package cgroup

import (
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/kubelet/cm"
)

// The kernel's own bounds and the kubelet's conversion constants.
const (
	MinShares   = cm.MinShares
	MaxShares   = cm.MaxShares
	periodUsec  = cm.QuotaPeriod
	minWeightV2 = 1
	maxWeightV2 = 10_000
)

// DefaultPodPIDs bounds the tasks of one pod: above what real pods have, and
// far below what would starve the host (pid_max is 32,768 on small hosts). The
// kubelet has no such bound by default.
const DefaultPodPIDs = 4096

// hugeUnlimited is what the kubelet gives groups above pods.
const hugeUnlimited = 1 << 62

// Limits are what a group is held to; zero means no limit.
type Limits struct {
	CPUShares   uint64 // cgroup v1 shares
	CPUQuota    int64  // microseconds per CPUPeriod
	CPUPeriod   uint64 // microseconds
	MemoryBytes int64
	PIDs        int64
	HugePages   map[int64]int64 // bytes, by the size of the page in bytes
}

// Shares converts a CPU request to cgroup v1 shares.
func Shares(request resource.Quantity) uint64 { return cm.MilliCPUToShares(request.MilliValue()) }

// Quota converts a CPU limit to microseconds per period; 0 means none.
func Quota(limit resource.Quantity) int64 { return cm.MilliCPUToQuota(limit.MilliValue(), periodUsec) }

// ForContainer gives the limits of one of pod's containers. Where the container
// says nothing, the pod's own resources (KEP-2837) hold, as with the kubelet.
func ForContainer(pod *v1.Pod, c *v1.Container) Limits {
	limit, memory := c.Resources.Limits.Cpu(), c.Resources.Limits.Memory()
	huge := cm.HugePageLimits(c.Resources.Limits)
	if helpers.IsPodLevelResourcesSet(pod) {
		of := pod.Spec.Resources.Limits
		if limit.IsZero() {
			limit = of.Cpu()
		}
		if memory.IsZero() {
			memory = of.Memory()
		}
		if len(huge) == 0 {
			huge = cm.HugePageLimits(of)
		}
	}
	request, ok := c.Resources.Requests[v1.ResourceCPU]
	if !ok {
		request = *limit
	}
	return Limits{
		CPUShares:   Shares(request),
		CPUQuota:    Quota(*limit),
		CPUPeriod:   periodUsec,
		MemoryBytes: memory.Value(),
		HugePages:   huge,
	}
}

// ForPod gives the limits of a pod's group, which are the kubelet's. pids
// bounds its tasks; 0 is no bound.
func ForPod(pod *v1.Pod, pids int64) Limits {
	// Memory QoS (KEP-2570) is on in 1.37 and, with the kubelet's default
	// policy None and no throttling factor, changes no group.
	of := cm.ResourceConfigForPod(pod, true, periodUsec, false, "")
	l := Limits{CPUPeriod: periodUsec, PIDs: pids, HugePages: of.HugePageLimit}
	if of.CPUShares != nil {
		l.CPUShares = *of.CPUShares
	}
	if of.CPUQuota != nil {
		l.CPUQuota = *of.CPUQuota
	}
	if of.Memory != nil {
		l.MemoryBytes = *of.Memory
	}
	return l
}

// V1 gives the settings as "controller/file" for cgroup v1.
func (l Limits) V1() map[string]string {
	out := map[string]string{}
	if l.CPUShares > 0 {
		out["cpu/cpu.shares"] = strconv.FormatUint(l.CPUShares, 10)
	}
	if l.CPUQuota > 0 {
		out["cpu/cpu.cfs_period_us"] = strconv.FormatUint(l.CPUPeriod, 10)
		out["cpu/cpu.cfs_quota_us"] = strconv.FormatInt(l.CPUQuota, 10)
	}
	if l.MemoryBytes > 0 {
		out["memory/memory.limit_in_bytes"] = strconv.FormatInt(l.MemoryBytes, 10)
	}
	if l.PIDs > 0 {
		out["pids/pids.max"] = strconv.FormatInt(l.PIDs, 10)
	}
	for size, limit := range l.HugePages {
		out["hugetlb/hugetlb."+HugeName(size)+".limit_in_bytes"] = strconv.FormatInt(limit, 10)
	}
	return out
}

// Unified gives the settings for cgroup v2, with an empty controller.
func (l Limits) Unified() map[string]string {
	out := map[string]string{}
	if l.CPUShares > 0 {
		out["/cpu.weight"] = strconv.FormatUint(Weight(l.CPUShares), 10)
	}
	if l.CPUQuota > 0 {
		out["/cpu.max"] = strconv.FormatInt(l.CPUQuota, 10) + " " + strconv.FormatUint(l.CPUPeriod, 10)
	}
	if l.MemoryBytes > 0 {
		out["/memory.max"] = strconv.FormatInt(l.MemoryBytes, 10)
	}
	if l.PIDs > 0 {
		out["/pids.max"] = strconv.FormatInt(l.PIDs, 10)
	}
	for size, limit := range l.HugePages {
		out["/hugetlb."+HugeName(size)+".max"] = strconv.FormatInt(limit, 10)
	}
	return out
}

// Weight maps v1 shares [2,262144] linearly to v2 weights [1,10000]: the
// mapping of KEP-2254, which the kubelet uses for pods and classes.
func Weight(shares uint64) uint64 {
	shares = min(max(shares, MinShares), MaxShares)
	return minWeightV2 + (shares-MinShares)*(maxWeightV2-minWeightV2)/(MaxShares-MinShares)
}

// HugeName is the kernel's word for a size of huge pages in bytes, such as
// "2MB".
func HugeName(size int64) string {
	for _, unit := range []struct {
		bytes int64
		name  string
	}{{1 << 30, "GB"}, {1 << 20, "MB"}} {
		if size >= unit.bytes {
			return strconv.FormatInt(size/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(size>>10, 10) + "KB"
}
