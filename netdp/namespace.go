package netdp

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace in which work can be done. The zero value
// is the calling thread's.
type namespace struct {
	file *os.File
}

func openNamespace(path string) (namespace, error) {
	if path == "" {
		// By name, since work for the host is also asked for from threads that
		// are inside a pod's namespace.
		path = "/proc/self/ns/net"
	}
	f, err := os.Open(path)
	if err != nil {
		return namespace{}, fmt.Errorf("open network namespace: %w", err)
	}
	return namespace{file: f}, nil
}

func (n namespace) close() {
	if n.file != nil {
		_ = n.file.Close()
	}
}

// do runs f on a thread that is inside the namespace. The thread ends with f,
// so no other goroutine can find itself in the wrong place.
func (n namespace) do(f func() error) error {
	if n.file == nil {
		return f()
	}
	return onOwnThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.file.Name(), err)
		}
		return f()
	})
}

// onOwnThread runs f on an operating system thread that nobody uses after it:
// a goroutine that ends while locked to its thread takes the thread with it.
// The process's first thread is never used, since it cannot end: it would stay
// in the last namespace f entered, and /proc/self/ns would show that one.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onOwnThread(f) // elsewhere, as this thread is taken
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// cookie is the number the kernel's programs know the namespace by.
func (n namespace) cookie() (uint64, error) {
	var cookie uint64
	err := n.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read network namespace cookie (Linux 5.14 or later): %w", err)
	}
	return cookie, nil
}

// currentNamespace is the calling thread's namespace.
func currentNamespace() (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
}

// createNamespace makes a network namespace, or takes the one at the path given,
// and pins it at path, then runs inside with an open file of it. The caller
// removes the pin if inside fails.
func createNamespace(given, path string, inside func(ns *os.File) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("create namespace pin: %w", err)
	}
	_ = f.Close()
	return onOwnThread(func() error {
		if err := enterNew(given); err != nil {
			return err
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin network namespace at %s: %w", path, err)
		}
		ns, err := currentNamespace()
		if err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		defer ns.Close()
		return inside(ns)
	})
}

// enterNew takes the thread into a new network namespace, or into the one that
// its owner has just made at the path given.
func enterNew(given string) error {
	if given == "" {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		return nil
	}
	f, err := os.Open(given)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", given, err)
	}
	return nil
}

// unpinNamespace removes what createNamespace left at path. The namespace ends
// with its last process.
func unpinNamespace(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unpin network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove namespace pin: %w", err)
	}
	return nil
}

// namespacePinned tells whether a network namespace is mounted at path.
func namespacePinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// writeSysctl sets one value of /proc/sys in the calling thread's namespace.
// A family the kernel was built without has no file, which is not an error.
func writeSysctl(value string, path ...string) error {
	name := filepath.Join(append([]string{"/proc/sys"}, path...)...)
	err := os.WriteFile(name, []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}
