package oci

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"shoal/agent/cgroup"
)

// Host is what the kernel here can hold a group to.
type Host struct {
	Unified bool    // cgroup v2 alone
	Swap    bool    // swap is counted by group
	Huge    []int64 // sizes of huge pages in bytes that groups can be limited in
}

// HostOf asks tree.
func HostOf(tree *cgroup.Tree) Host {
	h := Host{Unified: tree.Unified(), Swap: tree.LimitsSwap()}
	if tree.LimitsHuge() {
		for size := range cgroup.HugeSizes() {
			h.Huge = append(h.Huge, size)
		}
		slices.Sort(h.Huge)
	}
	return h
}

func withResources(in Input) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		s.Linux.CgroupsPath = in.CgroupPath
		devices := s.Linux.Resources.Devices
		s.Linux.Resources = Resources(in.Limits, in.Host)
		s.Linux.Resources.Devices = devices
		return nil
	}
}

// Resources is what the runtime holds a container to, as the kubelet asks for
// it: no swap, no huge pages but those asked for, and on v2 the whole container
// dies when the kernel kills one of its processes for lack of memory.
func Resources(l cgroup.Limits, host Host) *specs.LinuxResources {
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &l.CPUShares}}
	if l.CPUQuota > 0 {
		r.CPU.Quota, r.CPU.Period = &l.CPUQuota, &l.CPUPeriod
	}
	if l.MemoryBytes > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &l.MemoryBytes}
		if host.Swap {
			// Equal limits for memory and for memory with swap: no swap.
			r.Memory.Swap = &l.MemoryBytes
		}
	}
	for _, size := range host.Huge {
		r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{
			Pagesize: cgroup.HugeName(size), Limit: uint64(l.HugePages[size]),
		})
	}
	if host.Unified {
		r.Unified = map[string]string{"memory.oom.group": "1"}
		if host.Swap && l.MemoryBytes == 0 {
			r.Unified["memory.swap.max"] = "0"
		}
	}
	return r
}
