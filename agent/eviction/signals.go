package eviction

import (
	"k8s.io/apimachinery/pkg/api/resource"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	evictionapi "k8s.io/kubernetes/pkg/kubelet/eviction/api"
)

// observed is what a signal says of the host.
func observed(signal evictionapi.Signal, node *statsapi.NodeStats) (available, capacity uint64, ok bool) {
	memory := func(m *statsapi.MemoryStats) (uint64, uint64, bool) {
		if m == nil {
			return 0, 0, false
		}
		return *m.AvailableBytes, *m.AvailableBytes + *m.WorkingSetBytes, true
	}
	bytes := func(fs *statsapi.FsStats) (uint64, uint64, bool) {
		if fs == nil {
			return 0, 0, false
		}
		return *fs.AvailableBytes, *fs.CapacityBytes, true
	}
	inodes := func(fs *statsapi.FsStats) (uint64, uint64, bool) {
		if fs == nil || fs.Inodes == nil {
			return 0, 0, false
		}
		return *fs.InodesFree, *fs.Inodes, true
	}
	switch signal {
	case evictionapi.SignalMemoryAvailable:
		return memory(node.Memory)
	case evictionapi.SignalAllocatableMemoryAvailable:
		return memory(node.SystemContainers[0].Memory)
	case evictionapi.SignalNodeFsAvailable:
		return bytes(node.Fs)
	case evictionapi.SignalNodeFsInodesFree:
		return inodes(node.Fs)
	case evictionapi.SignalImageFsAvailable, evictionapi.SignalContainerFsAvailable:
		return bytes(node.Runtime.ImageFs)
	case evictionapi.SignalImageFsInodesFree, evictionapi.SignalContainerFsInodesFree:
		return inodes(node.Runtime.ImageFs)
	case evictionapi.SignalPIDAvailable:
		if node.Rlimit == nil || node.Rlimit.MaxPID == nil {
			return 0, 0, false
		}
		most := uint64(*node.Rlimit.MaxPID)
		return most - min(uint64(*node.Rlimit.NumOfRunningProcesses), most), most, true
	}
	return 0, 0, false
}

// threshold is t as a quantity of capacity.
func threshold(t evictionapi.Threshold, capacity uint64) uint64 {
	of := resource.NewQuantity(int64(capacity), resource.BinarySI)
	return uint64(max(evictionapi.GetThresholdQuantity(t.Value, of).Value(), 0))
}
