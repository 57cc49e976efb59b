// Package firstproc is the first process of a process namespace that the
// containers of a pod share (spec.shareProcessNamespace): it keeps the
// namespace there while containers come and go, and buries its orphans.
//
// It is the shoal binary itself, taken over by a C constructor before the Go
// runtime starts, as in package logwriter, so it costs some hundred kilobytes.
// Importing this package links the constructor in.
//
// Always true: the process has an empty root, no capabilities and a user of
// its own, so that what containers find in /proc/1 gives them nothing; it
// outlives the daemon, and ends by SIGKILL from outside only.
//
// The pod runner calls Start. Pinning the namespace, groups and the end are
// its own affair.
package firstproc

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// arg is the first argument by which a process knows what it is.
const arg = "shoal-first"

// readyTimeout bounds the start, which takes a few milliseconds.
const readyTimeout = 10 * time.Second

// Start starts a first process in a new process namespace, and in the other
// namespaces whose paths are given. dir is an existing directory below which
// nothing is mounted. The caller reaps the process.
func Start(binary, dir string, namespaces ...string) (*exec.Cmd, error) {
	type result struct {
		cmd *exec.Cmd
		err error
	}
	out := make(chan result, 1)
	go func() {
		// A child has its parent thread's namespaces, and this thread must end
		// with this goroutine, so it is never unlocked.
		runtime.LockOSThread()
		cmd, err := start(binary, dir, namespaces)
		out <- result{cmd, err}
	}()
	r := <-out
	if r.err != nil {
		return nil, fmt.Errorf("start the first process of a pod: %w", r.err)
	}
	return r.cmd, nil
}

func start(binary, dir string, namespaces []string) (*exec.Cmd, error) {
	for _, path := range namespaces {
		if err := enter(path); err != nil {
			return nil, err
		}
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd := exec.Command(binary, arg)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = dir, []string{}, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, err
	}
	_ = ready.SetReadDeadline(time.Now().Add(readyTimeout))
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("it did not come up: %w (%w)", err, cmd.Wait())
	}
	return cmd, nil
}

func enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, 0); err != nil {
		return fmt.Errorf("enter namespace %s: %w", path, err)
	}
	return nil
}
