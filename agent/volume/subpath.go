package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume/validation"
)

// subPathsDir is the name of the directory of a pod's bind mounts of paths in
// volumes: VOLUME/CONTAINER/INDEX below it, as the kubelet's.
const subPathsDir = "volume-subpaths"

// SubPath names one path in a volume for one mount of a container.
type SubPath struct {
	PodUID    types.UID
	Volume    string // name in the pod
	Container string
	Index     int // of the mount in the container
	Path      string
}

// SubPath gives the host's path of something in a volume, made as a directory
// if it is not there. Containers of the pod can write to the volume meanwhile:
// the path is resolved once, never leaves the volume (openat2, Linux 5.6), and
// what was found is bound elsewhere by its descriptor, so that no link put in
// its place later counts. It stays bound until Teardown; asking again for what
// is the same file gives the same mount.
func (v *Volumes) SubPath(m Mounted, s SubPath) (string, error) {
	if filepath.IsAbs(s.Path) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", s.Path)
	}
	if err := validation.ValidatePathNoBacksteps(s.Path); err != nil {
		return "", fmt.Errorf("unable to provision SubPath `%s`: %w", s.Path, err)
	}
	fd, err := openBelow(m.Path, s.Path)
	if err != nil {
		return "", &SubPathError{s, err}
	}
	defer unix.Close(fd)
	target := filepath.Join(v.dir, string(s.PodUID), subPathsDir, s.Volume, s.Container, strconv.Itoa(s.Index))
	if err := bindTo(fd, target); err != nil {
		return "", &SubPathError{s, err}
	}
	return target, nil
}

// SubPathError is a path in a volume that could not be had. Its text leaves
// out why, which could tell of the host's files; Unwrap gives it for the log.
type SubPathError struct {
	Asked SubPath
	Err   error
}

func (e *SubPathError) Error() string {
	return fmt.Sprintf("failed to prepare subPath for volumeMount %q of container %q", e.Asked.Volume, e.Asked.Container)
}

func (e *SubPathError) Unwrap() error { return e.Err }

var below = unix.OpenHow{
	Flags:   unix.O_PATH | unix.O_CLOEXEC,
	Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
}

// resolveTries bounds a resolution that the kernel gives up because something
// was renamed meanwhile (EAGAIN of openat2).
const resolveTries = 64

// openBelow gives an O_PATH descriptor of path, which never leads out of dir,
// and makes the directories that are missing with dir's own mode.
func openBelow(dir, path string) (int, error) {
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open volume: %w", err)
	}
	defer unix.Close(at)
	fd, err := openAt(at, path)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return -1, err
	}
	return makeBelow(at, path, st.Mode&0o7777)
}

func openAt(at int, path string) (int, error) {
	for try := 0; ; try++ {
		fd, err := unix.Openat2(at, path, &below)
		if err == nil {
			return fd, nil
		}
		if errors.Is(err, unix.EAGAIN) && try < resolveTries || errors.Is(err, unix.EINTR) {
			continue
		}
		return -1, fmt.Errorf("open %s in volume: %w", path, err)
	}
}

// makeBelow goes down path and makes what is missing. The parts that are there
// may be links that stay in the volume; those made here are never followed if
// somebody puts links in their place.
func makeBelow(root int, path string, mode uint32) (int, error) {
	parts := strings.Split(filepath.Clean(path), "/")
	fd, missing := -1, false
	for i := range parts {
		next, err := -1, error(nil)
		if !missing {
			next, err = openAt(root, filepath.Join(parts[:i+1]...))
			missing = errors.Is(err, unix.ENOENT)
		}
		if missing {
			next, err = makeOne(root, fd, parts[i], mode)
		}
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

func makeOne(root, parent int, name string, mode uint32) (int, error) {
	if parent < 0 {
		parent = root
	}
	if err := unix.Mkdirat(parent, name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, fmt.Errorf("make directory %s in volume: %w", name, err)
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open directory %s in volume: %w", name, err)
	}
	if err := unix.Fchmod(fd, mode); err != nil { // whatever the umask is
		_ = unix.Close(fd)
		return -1, fmt.Errorf("chmod %s in volume: %w", name, err)
	}
	return fd, nil
}

// bindTo mounts what fd is at target, unless that is mounted there.
func bindTo(fd int, target string) error {
	var want, have unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return err
	}
	if IsMountPoint(target) {
		err := unix.Lstat(target, &have)
		if err == nil && have.Dev == want.Dev && have.Ino == want.Ino {
			return nil
		}
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	if err := makeTarget(target, want.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	tree, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("clone mount: %w", err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", target, err)
	}
	return nil
}

// makeTarget makes an empty file or directory to mount on; of the other sort
// than before if a file became a directory.
func makeTarget(target string, dir bool) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if info, err := os.Lstat(target); err == nil && info.IsDir() != dir {
		if err := os.Remove(target); err != nil {
			return err
		}
	}
	if dir {
		if err := os.Mkdir(target, 0o750); !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	}
	return makeFile(target)
}
