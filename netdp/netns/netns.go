// Package netns makes network namespaces that nothing runs in yet, and keeps them
// by a bind mount: a pin.
//
// What always holds: no thread of the program that calls is left in another
// namespace than it was in; what Create made and did not finish is the caller's
// to Unpin.
//
// It is for those that give pods a network; it knows no pods.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OnOwnThread runs f on an operating system thread that nobody uses after it:
// a goroutine that ends while locked to its thread takes the thread with it.
// The process's first thread is never used, since it cannot end: it would stay
// in the last namespace f entered, and /proc/self/ns would show that one.
func OnOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- OnOwnThread(f) // elsewhere, as this thread is taken
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// Current is the calling thread's namespace.
func Current() (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
}

// Create makes a network namespace, or takes the one at the path given, and pins
// it at path, then runs inside on a thread in it, with an open file of it.
func Create(given, path string, inside func(ns *os.File) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("create namespace pin: %w", err)
	}
	_ = f.Close()
	return OnOwnThread(func() error {
		if err := enterNew(given); err != nil {
			return err
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin network namespace at %s: %w", path, err)
		}
		ns, err := Current()
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
	return Enter(given)
}

// Enter takes the calling thread into the namespace at path, for OnOwnThread.
func Enter(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}

// Unpin removes what Create left at path. The namespace ends with its last
// process. What is not there is no error.
func Unpin(path string) error {
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

// Pinned tells whether a network namespace is mounted at path.
func Pinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}
