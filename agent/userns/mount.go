package userns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Bind mounts source at target, which exists, with the owners of its files as
// the user namespace at path users sees them. Mounts below source come along
// as they are, as with every runtime, and so does source's propagation.
func Bind(users, source, target string) error { return bind(users, source, target, true) }

func bind(users, source, target string, below bool) error {
	tree, err := mapped(users, source, below)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}

// mapped clones the mount at source with mapped ids. The caller closes it.
func mapped(users, source string, below bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if below {
		flags |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return -1, fmt.Errorf("clone mount of %s: %w", source, err)
	}
	if err := setMapping(tree, users); err != nil {
		_ = unix.Close(tree)
		return -1, fmt.Errorf("map ids of %s: %w", source, err)
	}
	return tree, nil
}

func setMapping(tree int, users string) error {
	ns, err := os.Open(users)
	if err != nil {
		return err
	}
	defer ns.Close()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr)
	switch {
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w (idmapped mounts need Linux 5.12 or later)", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w (the file system does not support idmapped mounts on this kernel; tmpfs does since Linux 6.3)", err)
	}
	return err
}

// Root is the parts of an overlay or bind mount in containerd's form.
type Root struct {
	Type    string
	Source  string
	Options []string
}

// Mount mounts the root at target with mapped owners. first is the range's. It
// needs dir, an existing empty directory, only while it runs.
func (r Root) Mount(users string, first uint32, dir, target string) error {
	switch r.Type {
	case "bind":
		if err := bind(users, r.Source, target, false); err != nil {
			return err
		}
		return r.restrict(target)
	case "overlay":
		return r.overlay(users, first, dir, target)
	}
	return fmt.Errorf("map ids of a root file system: snapshots of type %q are not supported, only overlayfs", r.Type)
}

// restrict makes a bind mount read-only if it is to be.
func (r Root) restrict(target string) error {
	for _, o := range r.Options {
		if o == "ro" {
			return unix.MountSetattr(unix.AT_FDCWD, target, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		}
	}
	return nil
}

// overlay puts the layers, mapped, below the writable one, which gets files with
// ids of the range itself.
func (r Root) overlay(users string, first uint32, dir, target string) error {
	var lower []string
	var others []string
	for _, o := range r.Options {
		name, value, _ := strings.Cut(o, "=")
		switch name {
		case "lowerdir":
			lower = strings.Split(value, ":")
			continue
		case "upperdir":
			if err := giveUpper(value, first); err != nil {
				return err
			}
		}
		others = append(others, o)
	}
	if len(lower) == 0 {
		return errors.New("map ids of a root file system: the overlay has no lower directory")
	}
	// All layers are in one directory of the snapshotter's: one mount for all.
	parent := commonDir(lower)
	if err := bind(users, parent, dir, false); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }() // the overlay has its own clones
	// By descriptor, so that the options of many layers fit into their page.
	at, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open layers: %w", err)
	}
	defer unix.Close(at)
	for i, l := range lower {
		lower[i] = fmt.Sprintf("/proc/self/fd/%d%s", at, strings.TrimPrefix(l, parent))
	}
	var flags uintptr
	data := []string{"lowerdir=" + strings.Join(lower, ":")}
	for _, o := range others {
		if o == "ro" {
			flags |= unix.MS_RDONLY
			continue
		}
		data = append(data, o)
	}
	if err := unix.Mount("overlay", target, "overlay", flags, strings.Join(data, ",")); err != nil {
		return fmt.Errorf("mount overlay on mapped layers: %w (Linux 5.19 or later is needed)", err)
	}
	return nil
}

// giveUpper gives the top directory to the owner it has in the layers below,
// in ids of the range.
func giveUpper(dir string, first uint32) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("look at the writable layer: %w", err)
	}
	if st.Uid >= Length || st.Gid >= Length {
		return nil // an earlier try has done it
	}
	if err := os.Lchown(dir, int(first+st.Uid), int(first+st.Gid)); err != nil {
		return fmt.Errorf("give the writable layer to the pod: %w", err)
	}
	// A change of owner may take set-id bits.
	return os.Chmod(dir, os.FileMode(st.Mode&0o777)|sticky(st.Mode))
}

func sticky(mode uint32) os.FileMode {
	if mode&unix.S_ISVTX != 0 {
		return os.ModeSticky
	}
	return 0
}

// commonDir is the deepest directory that all paths are below or equal to.
func commonDir(paths []string) string {
	common := paths[0]
	for _, p := range paths[1:] {
		for p != common && !strings.HasPrefix(p, strings.TrimSuffix(common, "/")+"/") {
			common = filepath.Dir(common)
		}
	}
	return common
}
