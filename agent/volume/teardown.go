package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// Teardown takes the pod's volumes away, whatever daemon made them: what there
// is to take down is read from the disk. Nothing that is not the pod's own is
// removed: everything mounted below its directory is detached before.
func (v *Volumes) Teardown(ctx context.Context, podUID string) error {
	v.mu.Lock()
	delete(v.mounted, types.UID(podUID))
	v.mu.Unlock()
	base := filepath.Join(v.dir, podUID, volumesDir)
	err := v.teardownDisk(ctx, podUID, base)
	if err == nil {
		err = errors.Join(os.RemoveAll(base), os.RemoveAll(filepath.Join(v.secrets, podUID)))
	}
	if err != nil {
		return fmt.Errorf("take down volumes of pod %s: %w", podUID, err)
	}
	return nil
}

func (v *Volumes) teardownDisk(ctx context.Context, podUID, base string) error {
	kinds, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, kind := range kinds {
		driver := v.drivers[Kind(kind.Name())]
		names, err := os.ReadDir(filepath.Join(base, kind.Name()))
		errs = append(errs, err)
		for _, name := range names {
			if driver == nil {
				continue
			}
			dir := filepath.Join(base, kind.Name(), name.Name())
			errs = append(errs, driver.Teardown(ctx, podUID, name.Name(), dir))
		}
	}
	return errors.Join(append(errs, detachBelow(base))...)
}

// detachBelow detaches every mount at and below dir, the deepest first. It is
// an error if one stays: whoever removes dir then would remove what is mounted.
func detachBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != dir && !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	// Later ones lie over or below earlier ones.
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

// isMountPoint asks statx, which knows mounts of the same file system too
// (Linux 5.8).
func isMountPoint(dir string) bool {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
