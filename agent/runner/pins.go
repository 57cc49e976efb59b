package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"shoal/agent/volume"
)

// Pins of a pod with a user namespace.
const (
	pinUser = "user"
	pinNet  = "net"
)

// pins keeps pods' namespaces (IPC and UTS; those that a user namespace of the
// pod owns) alive without a process in them, by bind mounts in one directory that is a private mount of its own: pins
// are then not copied into every container's mount namespace.
type pins struct{ dir string }

func openPins(dir string) (*pins, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("open namespace pins: %w", err)
	}
	p := &pins{dir: dir}
	if volume.IsMountPoint(dir) {
		return p, nil
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("open namespace pins: bind %s: %w (root is needed)", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("open namespace pins: make %s private: %w", dir, err)
	}
	return p, nil
}

func (p *pins) close() error {
	for volume.IsMountPoint(p.dir) { // also if two daemons once mounted at the same moment
		if err := unix.Unmount(p.dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", p.dir, err)
		}
	}
	return nil
}

func (p *pins) path(podUID, kind string) string {
	return filepath.Join(p.dir, podUID, kind)
}

// make pins new namespaces for the pod, unless it has them.
func (p *pins) make(podUID, hostname string, uts bool) error {
	if pinned(p.path(podUID, "ipc")) && (!uts || pinned(p.path(podUID, "uts"))) {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(p.dir, podUID), 0o711); err != nil {
		return fmt.Errorf("pin namespaces: %w", err)
	}
	if err := onOwnThread(func() error { return p.makeOnThread(podUID, hostname, uts) }); err != nil {
		return fmt.Errorf("pin namespaces of pod %s: %w", podUID, err)
	}
	return nil
}

// onOwnThread runs f on a thread that ends with it: it is in other namespaces
// afterwards, so it is never unlocked.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

func (p *pins) makeOnThread(podUID, hostname string, uts bool) error {
	flags := unix.CLONE_NEWIPC
	kinds := []string{"ipc"}
	if uts {
		flags |= unix.CLONE_NEWUTS
		kinds = append(kinds, "uts")
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if uts {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("set hostname: %w", err)
		}
	}
	for _, kind := range kinds {
		f, err := os.OpenFile(p.path(podUID, kind), os.O_CREATE|os.O_RDONLY, 0o444)
		if err != nil {
			return err
		}
		f.Close()
		if err := unix.Mount("/proc/thread-self/ns/"+kind, p.path(podUID, kind), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s namespace: %w", kind, err)
		}
	}
	return nil
}

// pinned reports whether path holds a namespace: after a reboot the file is
// there and the mount is not.
func pinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// have reports whether the pod's namespaces are still there.
func (p *pins) have(podUID string) bool {
	return pinned(p.path(podUID, "ipc")) || pinned(p.path(podUID, "uts"))
}

// drop lets the pod's namespaces go.
func (p *pins) drop(podUID string) error {
	var errs []error
	if err := p.unstageAll(podUID); err != nil {
		return err
	}
	for _, kind := range []string{"ipc", "uts", pinPID, pinNet, pinUser} {
		path := p.path(podUID, kind)
		if pinned(path) {
			errs = append(errs, unix.Unmount(path, unix.MNT_DETACH))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("drop namespaces of pod %s: %w", podUID, err)
	}
	if err := os.RemoveAll(filepath.Join(p.dir, podUID)); err != nil {
		return fmt.Errorf("drop namespaces of pod %s: %w", podUID, err)
	}
	return nil
}

// list gives the uids of pods with pins.
func (p *pins) list() ([]string, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list namespace pins: %w", err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

// pin keeps one more namespace of the pod, in place of an older one.
func (p *pins) pin(podUID, kind, source string) error {
	path := p.path(podUID, kind)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return fmt.Errorf("pin namespaces: %w", err)
	}
	if pinned(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("pin namespaces: let go of %s: %w", path, err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("pin namespaces: %w", err)
	}
	_ = f.Close()
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin %s namespace of pod %s: %w", kind, podUID, err)
	}
	return nil
}
