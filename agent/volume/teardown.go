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
	p := v.pods[types.UID(podUID)]
	delete(v.pods, types.UID(podUID))
	v.mu.Unlock()
	if p != nil {
		p.writing.Lock()
		p.gone = true
		p.writing.Unlock()
	}
	v.config.forget(types.UID(podUID))
	pod := filepath.Join(v.dir, podUID)
	made := []string{filepath.Join(pod, subPathsDir), filepath.Join(pod, volumesDir)}
	err := v.teardownDisk(ctx, podUID, made)
	made = append(made, filepath.Join(v.secrets, podUID))
	for i := 0; err == nil && i < len(made); i++ {
		err = os.RemoveAll(made[i])
	}
	if err != nil {
		return fmt.Errorf("take down volumes of pod %s: %w", podUID, err)
	}
	return nil
}

// Leftovers are the uids of pods that have secrets here, perhaps without
// anything else of them being left.
func (v *Volumes) Leftovers() []string {
	entries, _ := os.ReadDir(v.secrets) // made by Open
	var out []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			out = append(out, e.Name())
		}
	}
	return out
}

func (v *Volumes) teardownDisk(ctx context.Context, podUID string, made []string) error {
	var errs []error
	found := false
	for _, dir := range made {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			found = true
		}
	}
	if !found {
		return nil // nothing was mounted either
	}
	base := filepath.Join(v.dir, podUID, volumesDir)
	kinds, err := os.ReadDir(base)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, kind := range kinds {
		driver := v.drivers[Kind(kind.Name())]
		if driver == nil {
			continue
		}
		names, err := os.ReadDir(filepath.Join(base, kind.Name()))
		errs = append(errs, err)
		for _, name := range names {
			dir := filepath.Join(base, kind.Name(), name.Name())
			errs = append(errs, driver.Teardown(ctx, podUID, name.Name(), dir))
		}
	}
	return errors.Join(append(errs, detachBelow(made))...)
}

// detachBelow detaches every mount at and below the directories, the deepest
// first. It is an error if one stays: whoever removes them then would remove
// what is mounted.
func detachBelow(dirs []string) error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		for _, dir := range dirs {
			if m.Mountpoint == dir || strings.HasPrefix(m.Mountpoint, dir+"/") {
				return false, false
			}
		}
		return true, false
	})
	if err != nil {
		return fmt.Errorf("list mounts of volumes: %w", err)
	}
	// Later ones lie over or below earlier ones.
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

// IsMountPoint asks statx, which knows mounts of the same file system too
// (Linux 5.8).
func IsMountPoint(dir string) bool {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
