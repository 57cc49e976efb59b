package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

// emptyDir is the Driver of directories that live as long as their pod. On
// disk they survive a reboot of the host; what is in memory does not.
type emptyDir struct {
	allocatable func() v1.ResourceList // of the node
}

func (emptyDir) Teardown(context.Context, string, string, string) error { return nil }

func (d emptyDir) Setup(_ context.Context, r *Request) (Mounted, error) {
	if err := makeEmpty(r); err != nil {
		return Mounted{}, err
	}
	m := Mounted{Path: r.Dir}
	medium := r.Volume.EmptyDir.Medium
	switch {
	case medium == v1.StorageMediumDefault:
		return m, nil
	case medium == v1.StorageMediumMemory:
		return m, d.mountMemory(r)
	case v1helper.IsHugePageMedium(medium):
		return m, mountHugePages(r, medium)
	}
	return m, fmt.Errorf("unknown storage medium %q", medium)
}

// makeEmpty makes the directory under another name first, so that one that is
// there is complete, and a later daemon leaves its owners and modes to the
// pod. Names of volumes have no dots.
func makeEmpty(r *Request) error {
	if _, err := os.Lstat(r.Dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.Dir), 0o750); err != nil {
		return err
	}
	unfinished := r.Dir + ".new"
	if err := os.Mkdir(unfinished, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Chmod(unfinished, 0o777); err != nil { // whatever the umask is
		return err
	}
	if err := GiveToGroup(unfinished, r.Pod, false, nil); err != nil {
		return err
	}
	return os.Rename(unfinished, r.Dir)
}

// mountMemory mounts a tmpfs. Its owner is part of the mount, so a mount that
// is there is complete.
func (d emptyDir) mountMemory(r *Request) error {
	if IsMountPoint(r.Dir) {
		return nil
	}
	opts := "mode=0777"
	if gid, ok := fsGroup(r.Pod); ok {
		opts = "mode=2777,gid=" + strconv.Itoa(gid)
	}
	if size := d.memorySize(r.Pod, r.Volume.EmptyDir); size > 0 {
		opts += ",size=" + strconv.FormatInt(size, 10)
	}
	// Linux 6.4 keeps it out of swap; before, the option is unknown.
	err := unix.Mount("tmpfs", r.Dir, "tmpfs", 0, opts+",noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", r.Dir, "tmpfs", 0, opts)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	return nil
}

// memorySize is the least of the node's memory, the pod's limit and the
// volume's, in bytes; 0 if none is known.
func (d emptyDir) memorySize(pod *v1.Pod, src *v1.EmptyDirVolumeSource) int64 {
	size := int64(0)
	lower := func(n int64) {
		if n > 0 && (size == 0 || n < size) {
			size = n
		}
	}
	if d.allocatable != nil {
		list := d.allocatable()
		lower(list.Memory().Value())
	}
	lower(podMemory(pod))
	if src.SizeLimit != nil {
		lower(src.SizeLimit.Value())
	}
	return size
}

// podMemory is what the pod as a whole may use; 0 if a container has no limit.
func podMemory(pod *v1.Pod) int64 {
	if pod.Spec.Resources == nil || pod.Spec.Resources.Limits.Memory().IsZero() {
		for i := range pod.Spec.Containers {
			if pod.Spec.Containers[i].Resources.Limits.Memory().IsZero() {
				return 0
			}
		}
	}
	limits := resource.PodLimits(pod, resource.PodResourcesOptions{})
	return limits.Memory().Value()
}

func mountHugePages(r *Request, medium v1.StorageMedium) error {
	size, err := pageSize(medium, r.Pod)
	if err != nil {
		return err
	}
	if IsMountPoint(r.Dir) {
		return checkPageSize(r, size)
	}
	opts := "pagesize=" + size.String() + ",mode=0777"
	if gid, ok := fsGroup(r.Pod); ok {
		opts = "pagesize=" + size.String() + ",mode=2777,gid=" + strconv.Itoa(gid)
	}
	if err := unix.Mount("nodev", r.Dir, "hugetlbfs", 0, opts); err != nil {
		return fmt.Errorf("mount hugetlbfs with pagesize=%s: %w", size.String(), err)
	}
	return nil
}
