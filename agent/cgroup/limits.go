package cgroup

import (
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// The kernel's own bounds and the kubelet's conversion constants.
const (
	MinShares   = 2
	MaxShares   = 262144
	periodUsec  = 100_000
	minQuota    = 1_000 // microseconds; the kernel refuses less
	minWeightV2 = 1
	maxWeightV2 = 10_000
)

// PodPIDs bounds the processes of one pod: far above any real pod, far below
// what would starve the host (pid_max is 32,768 on small hosts).
const PodPIDs = 16384

// Limits are what a group is held to; zero means no limit.
type Limits struct {
	CPUShares   uint64 // cgroup v1 shares
	CPUQuota    int64  // microseconds per CPUPeriod
	CPUPeriod   uint64 // microseconds
	MemoryBytes int64
	PIDs        int64
}

// Shares converts a CPU request to cgroup v1 shares.
func Shares(request resource.Quantity) uint64 {
	shares := request.MilliValue() * 1024 / 1000
	return uint64(min(max(shares, MinShares), MaxShares))
}

// Quota converts a CPU limit to microseconds per period; 0 means none.
func Quota(limit resource.Quantity) int64 {
	if limit.IsZero() {
		return 0
	}
	return max(limit.MilliValue()*periodUsec/1000, minQuota)
}

// ForContainer gives the limits of one container.
func ForContainer(r v1.ResourceRequirements) Limits {
	request := r.Requests[v1.ResourceCPU]
	limit := r.Limits[v1.ResourceCPU]
	if request.IsZero() {
		request = limit
	}
	memory := r.Limits[v1.ResourceMemory]
	return Limits{
		CPUShares:   Shares(request),
		CPUQuota:    Quota(limit),
		CPUPeriod:   periodUsec,
		MemoryBytes: memory.Value(),
	}
}

// ForPod gives the limits of a pod from its effective requests and limits
// (sums over containers, the largest init container included). A limit holds
// for the pod only when every container has it; the caller passes what holds.
func ForPod(requests, limits v1.ResourceList) Limits {
	memory := limits[v1.ResourceMemory]
	return Limits{
		CPUShares:   Shares(requests[v1.ResourceCPU]),
		CPUQuota:    Quota(limits[v1.ResourceCPU]),
		CPUPeriod:   periodUsec,
		MemoryBytes: memory.Value(),
		PIDs:        PodPIDs,
	}
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
	return out
}

// Weight maps v1 shares [2,262144] linearly to v2 weights [1,10000]; it is
// the mapping of KEP-2254 and of runc.
func Weight(shares uint64) uint64 {
	shares = min(max(shares, MinShares), MaxShares)
	return minWeightV2 + (shares-MinShares)*(maxWeightV2-minWeightV2)/(MaxShares-MinShares)
}
