package stats

import (
	"context"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	summary "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Summary is the kubelet's /stats/summary, and with onlyCPUAndMemory the part
// of it that costs no walk of a directory.
func (r *Reader) Summary(ctx context.Context, onlyCPUAndMemory bool) *summary.Summary {
	out := &summary.Summary{Node: r.nodeSummary(onlyCPUAndMemory), Pods: []summary.PodStats{}}
	groups, containers := map[string]bool{"/": true}, map[string]bool{}
	for _, pod := range r.o.Pods() {
		out.Pods = append(out.Pods, r.podSummary(ctx, pod, onlyCPUAndMemory))
		groups[r.podGroup(pod)] = true
		for _, c := range pod.Containers {
			containers[c.ID], groups[r.containerGroup(pod, c)] = true, true
		}
	}
	r.rates.keep(groups)
	r.sizes.keep(containers)
	return out
}

func (r *Reader) podGroup(pod Pod) string {
	return r.o.Cgroups.PodPath(classOf(pod.Pod), string(pod.UID))
}

func (r *Reader) containerGroup(pod Pod, c Container) string {
	return r.o.Cgroups.ContainerPath(classOf(pod.Pod), string(pod.UID), c.ID)
}

func (r *Reader) nodeSummary(less bool) summary.NodeStats {
	n := summary.NodeStats{NodeName: r.o.NodeName, StartTime: metav1.NewTime(bootTime())}
	if g, ok := r.readGroup("/", false); ok {
		total, swap := memoryOfHost()
		g.memory.Limit = total
		n.CPU, n.Memory = r.cpu(g, time.Time{}), memory(g)
		n.Swap = &summary.SwapStats{Time: metav1.NewTime(g.at), SwapUsageBytes: &g.memory.Swap, SwapAvailableBytes: to(swap - min(g.memory.Swap, swap))}
	}
	if g, ok := r.readGroup(r.o.Cgroups.Root(), false); ok {
		n.SystemContainers = append(n.SystemContainers, summary.ContainerStats{
			Name: summary.SystemContainerPods, StartTime: n.StartTime, CPU: r.cpu(g, time.Time{}), Memory: memory(g),
		})
	}
	if less {
		return n
	}
	n.Network = network(interfaces(0), defaultInterface())
	n.Fs = r.disk(size{}, false)
	if fs, ok := statFS(r.o.DataDir); ok {
		n.Fs.UsedBytes, n.Fs.InodesUsed = to(fs.capacity-min(fs.available, fs.capacity)), to(fs.inodes-min(fs.inodesFree, fs.inodes))
	}
	n.Runtime = &summary.RuntimeStats{ImageFs: n.Fs, ContainerFs: n.Fs}
	now := metav1.Now()
	n.Rlimit = &summary.RlimitStats{Time: now, MaxPID: to(int64(numberIn("/proc/sys/kernel/pid_max"))), NumOfRunningProcesses: to(int64(tasksOfHost()))}
	return n
}

func (r *Reader) podSummary(ctx context.Context, pod Pod, less bool) summary.PodStats {
	out := summary.PodStats{
		PodRef:     summary.PodReference{Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID)},
		Containers: []summary.ContainerStats{},
	}
	if t := pod.Status.StartTime; t != nil {
		out.StartTime = *t
	}
	if g, ok := r.readGroup(r.podGroup(pod), !less); ok {
		out.CPU, out.Memory, out.Swap = r.cpu(g, out.StartTime.Time), memory(g), swap(g)
		if !less && g.pids.Current > 0 {
			out.ProcessStats = &summary.ProcessStats{ProcessCount: &g.pids.Current}
		}
	}
	var ephemeral size
	for _, c := range pod.Containers {
		g, ok := r.readGroup(r.containerGroup(pod, c), false)
		if !ok {
			continue
		}
		s := summary.ContainerStats{Name: c.Name, StartTime: metav1.NewTime(c.StartedAt), CPU: r.cpu(g, c.StartedAt), Memory: memory(g), Swap: swap(g)}
		if !less {
			root, _ := r.sizes.of(r.upperOf(ctx, c.ID))
			logs, _ := r.sizes.of(r.o.Logs(pod.Pod, c.Name))
			s.Rootfs, s.Logs = r.disk(root, true), r.disk(logs, true)
			ephemeral.bytes, ephemeral.inodes = ephemeral.bytes+root.bytes+logs.bytes, ephemeral.inodes+root.inodes+logs.inodes
		}
		out.Containers = append(out.Containers, s)
	}
	if less {
		return out
	}
	if !pod.Spec.HostNetwork && len(pod.Containers) > 0 {
		out.Network = network(interfaces(pod.Containers[0].PID), "eth0")
	}
	var volumes size
	out.VolumeStats, volumes = r.volumes(pod, false)
	ephemeral.bytes, ephemeral.inodes = ephemeral.bytes+volumes.bytes, ephemeral.inodes+volumes.inodes
	for _, path := range r.o.Own(pod.Pod) {
		own, _ := r.sizes.of(path)
		ephemeral.bytes, ephemeral.inodes = ephemeral.bytes+own.bytes, ephemeral.inodes+own.inodes
	}
	out.EphemeralStorage = r.disk(ephemeral, true)
	return out
}

// volumes are the sizes of a pod's volumes, and of those among them that are
// on this host's disk and go with the pod; with claimed, of claims alone.
func (r *Reader) volumes(pod Pod, claimed bool) (out []summary.VolumeStats, ephemeral size) {
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		dir := r.o.Volume(pod.Pod, vol)
		if dir == "" || vol.HostPath != nil || claimed && vol.PersistentVolumeClaim == nil && vol.Ephemeral == nil {
			continue
		}
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		z, _ := r.sizes.of(dir)
		s := summary.VolumeStats{Name: vol.Name, FsStats: *diskOf(dir, z, true)}
		switch {
		case vol.PersistentVolumeClaim != nil:
			s.PVCRef = &summary.PVCReference{Name: vol.PersistentVolumeClaim.ClaimName, Namespace: pod.Namespace}
		case vol.Ephemeral != nil:
			s.PVCRef = &summary.PVCReference{Name: pod.Name + "-" + vol.Name, Namespace: pod.Namespace}
		case onDisk(vol):
			ephemeral.bytes, ephemeral.inodes = ephemeral.bytes+z.bytes, ephemeral.inodes+z.inodes
		}
		out = append(out, s)
	}
	return out, ephemeral
}

func onDisk(vol *v1.Volume) bool {
	return vol.EmptyDir != nil && vol.EmptyDir.Medium == v1.StorageMediumDefault || vol.ConfigMap != nil
}

func (r *Reader) cpu(g group, began time.Time) *summary.CPUStats {
	out := &summary.CPUStats{Time: metav1.NewTime(g.at), UsageCoreNanoSeconds: to(g.cpu.Nanoseconds)}
	if rate, window := r.rates.note(g.path, reading{g.at, g.cpu.Nanoseconds}, began); window > 0 {
		out.UsageNanoCores = &rate
	}
	return out
}

func memory(g group) *summary.MemoryStats {
	m := g.memory
	out := &summary.MemoryStats{
		Time: metav1.NewTime(g.at), UsageBytes: &m.Usage, WorkingSetBytes: &m.WorkingSet, RSSBytes: &m.RSS,
		PageFaults: &m.PageFaults, MajorPageFaults: &m.MajorFault,
	}
	if m.Limit > 0 {
		out.AvailableBytes = to(m.Limit - min(m.WorkingSet, m.Limit))
	}
	return out
}

func swap(g group) *summary.SwapStats {
	return &summary.SwapStats{Time: metav1.NewTime(g.at), SwapUsageBytes: to(g.memory.Swap), SwapAvailableBytes: to(uint64(0))}
}

func network(all []netInterface, main string) *summary.NetworkStats {
	if len(all) == 0 {
		return nil
	}
	out := &summary.NetworkStats{Time: metav1.Now()}
	for _, i := range all {
		s := summary.InterfaceStats{Name: i.name, RxBytes: &i.rxBytes, RxErrors: &i.rxErrors, TxBytes: &i.txBytes, TxErrors: &i.txErrors}
		if i.name == main {
			out.InterfaceStats = s
		}
		out.Interfaces = append(out.Interfaces, s)
	}
	return out
}

// disk is the file system that pods write to, with what one part of it holds
// if used is set.
func (r *Reader) disk(z size, used bool) *summary.FsStats { return diskOf(r.o.DataDir, z, used) }

func diskOf(dir string, z size, used bool) *summary.FsStats {
	out := &summary.FsStats{Time: metav1.Now()}
	if fs, ok := statFS(dir); ok {
		out.CapacityBytes, out.AvailableBytes, out.Inodes, out.InodesFree = &fs.capacity, &fs.available, &fs.inodes, &fs.inodesFree
	}
	if used {
		out.UsedBytes, out.InodesUsed = &z.bytes, &z.inodes
	}
	return out
}

func to[T any](v T) *T { return &v }

// ClaimStats is the size of one volume that is claimed.
type ClaimStats struct {
	summary.FsStats
	Namespace, Claim string
}

// Claims are the sizes of the claimed volumes that running pods use.
func (r *Reader) Claims() []ClaimStats {
	var out []ClaimStats
	for _, pod := range r.o.Pods() {
		volumes, _ := r.volumes(pod, true)
		for _, v := range volumes {
			out = append(out, ClaimStats{v.FsStats, v.PVCRef.Namespace, v.PVCRef.Name})
		}
	}
	return out
}
