package eviction

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helpers "k8s.io/component-helpers/resource"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	evictionapi "k8s.io/kubernetes/pkg/kubelet/eviction/api"
	"k8s.io/kubernetes/pkg/kubelet/stats/pidlimit"

	"shoal/agent/cgroup"
)

// host reads what thresholds are about.
type host struct {
	groups *cgroup.Tree
	nodeFS string
}

// Get implements upstream's SummaryProvider.
func (m *Monitor) Get(ctx context.Context, _ bool) (*statsapi.Summary, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	node, err := m.host.read(m.o.Node, m.o.ImageFS(ctx))
	if err != nil {
		return nil, err
	}
	s := &statsapi.Summary{Node: *node}
	pods := m.o.Pods()
	need := m.needs(node)
	switch {
	case need.memory || need.disk:
		s.Pods = m.o.PodStats(ctx, pods, need.disk)
	default:
		if limited := limitedOnDisk(pods); len(limited) > 0 {
			s.Pods = m.o.PodStats(ctx, limited, true)
		}
	}
	return s, nil
}

// GetCPUAndMemoryStats implements upstream's SummaryProvider.
func (m *Monitor) GetCPUAndMemoryStats(ctx context.Context) (*statsapi.Summary, error) {
	return m.Get(ctx, false)
}

// need is what of pods has to be measured.
type need struct{ memory, disk bool }

// needs judges by the thresholds that are met, or nearly: the manager goes on
// until what a threshold asks to reclaim is free too.
func (m *Monitor) needs(node *statsapi.NodeStats) (out need) {
	if m.manager.IsUnderDiskPressure() {
		out.disk = true
	}
	if m.manager.IsUnderMemoryPressure() || m.manager.IsUnderPIDPressure() {
		out.memory = true
	}
	for _, t := range m.o.Thresholds {
		available, capacity, ok := observed(t.Signal, node)
		if !ok || available >= threshold(t, capacity) {
			continue
		}
		switch t.Signal {
		case evictionapi.SignalMemoryAvailable, evictionapi.SignalAllocatableMemoryAvailable, evictionapi.SignalPIDAvailable:
			out.memory = true
		default:
			out.disk = true
		}
	}
	return out
}

// HasDedicatedImageFs implements upstream's DiskInfoProvider.
func (m *Monitor) HasDedicatedImageFs(ctx context.Context) (bool, error) {
	var node, image unix.Stat_t
	if err := unix.Stat(m.o.NodeFS, &node); err != nil {
		return false, fmt.Errorf("look at %s: %w", m.o.NodeFS, err)
	}
	if dir := m.o.ImageFS(ctx); dir == "" || unix.Stat(dir, &image) != nil {
		return false, nil // containerd does not say where it keeps images
	}
	return node.Dev != image.Dev, nil
}

// HasDedicatedContainerFs implements upstream's DiskInfoProvider: containerd
// keeps writable layers beside images.
func (m *Monitor) HasDedicatedContainerFs(context.Context) (bool, error) { return false, nil }

func (h host) read(name, imageFS string) (*statsapi.NodeStats, error) {
	now := metav1.NewTime(time.Now())
	var mem unix.Sysinfo_t
	if err := unix.Sysinfo(&mem); err != nil {
		return nil, fmt.Errorf("read the host's memory: %w", err)
	}
	total := mem.Totalram * uint64(mem.Unit)
	whole, err := h.groups.Memory("/")
	if err != nil {
		return nil, err
	}
	node := &statsapi.NodeStats{NodeName: name, Memory: memoryOf(now, whole, total)}
	pods := statsapi.ContainerStats{Name: statsapi.SystemContainerPods}
	if group, err := h.groups.Memory(h.groups.Root()); err == nil && group.Limit > 0 {
		pods.Memory = memoryOf(now, group, group.Limit)
	}
	node.SystemContainers = []statsapi.ContainerStats{pods}
	node.Fs = fileSystem(now, h.nodeFS)
	image := fileSystem(now, imageFS)
	if image == nil {
		image = node.Fs
	}
	node.Runtime = &statsapi.RuntimeStats{ImageFs: image, ContainerFs: image}
	if node.Rlimit, err = pidlimit.Stats(); err != nil {
		return nil, fmt.Errorf("read the host's process numbers: %w", err)
	}
	return node, nil
}

func memoryOf(at metav1.Time, g cgroup.Memory, limit uint64) *statsapi.MemoryStats {
	used := min(g.WorkingSet, limit)
	available := limit - used
	return &statsapi.MemoryStats{Time: at, AvailableBytes: &available, UsageBytes: &g.Usage, WorkingSetBytes: &used}
}

func fileSystem(at metav1.Time, dir string) *statsapi.FsStats {
	var fs unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &fs) != nil {
		return nil
	}
	size := uint64(fs.Bsize)
	capacity, available := fs.Blocks*size, fs.Bavail*size
	s := &statsapi.FsStats{Time: at, CapacityBytes: &capacity, AvailableBytes: &available}
	if fs.Files > 0 { // btrfs and others have no bound on inodes
		s.Inodes, s.InodesFree = &fs.Files, &fs.Ffree
	}
	return s
}

// limitedOnDisk are the pods that may be evicted for what they alone keep on
// disk.
func limitedOnDisk(pods []*v1.Pod) []*v1.Pod {
	var out []*v1.Pod
	for _, pod := range pods {
		if hasDiskLimit(pod) {
			out = append(out, pod)
		}
	}
	return out
}

func hasDiskLimit(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		dir := pod.Spec.Volumes[i].EmptyDir
		// One in memory is also counted: the kubelet evicts for it too.
		if dir != nil && dir.SizeLimit != nil && dir.SizeLimit.Sign() > 0 {
			return true
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if _, ok := list[i].Resources.Limits[v1.ResourceEphemeralStorage]; ok {
				return true
			}
		}
	}
	if !helpers.IsPodLevelResourcesSet(pod) {
		return false
	}
	_, ok := pod.Spec.Resources.Limits[v1.ResourceEphemeralStorage]
	return ok
}
