package reserve

import (
	"runtime"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"shoal/agent/cgroup"
)

// Capacity is what the host has: processors, memory, huge pages by size, the
// file system of dataDir, and room for maxPods pods.
func Capacity(dataDir string, maxPods int64) v1.ResourceList {
	out := v1.ResourceList{
		v1.ResourceCPU:  *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		v1.ResourcePods: *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
	var mem unix.Sysinfo_t
	if unix.Sysinfo(&mem) == nil {
		out[v1.ResourceMemory] = *resource.NewQuantity(int64(mem.Totalram)*int64(mem.Unit), resource.BinarySI)
	}
	var fs unix.Statfs_t
	if unix.Statfs(dataDir, &fs) == nil {
		out[v1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI)
	}
	for size, bytes := range cgroup.HugeSizes() {
		page := resource.NewQuantity(size, resource.BinarySI)
		out[v1.ResourceName(v1.ResourceHugePagesPrefix+page.String())] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return out
}
