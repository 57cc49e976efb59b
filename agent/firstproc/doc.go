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
	"errors"
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
// nothing is mounted. keep is told its number and notes it where a later daemon
// finds it; if it fails, or this process dies before it has returned, the first
// process ends. The caller reaps the process.
func Start(binary, dir string, keep func(pid int) error, namespaces ...string) (*exec.Cmd, error) {
	type result struct {
		cmd *exec.Cmd
		err error
	}
	out := make(chan result, 1)
	go func() {
		// A child has its parent thread's namespaces, and this thread must end
		// with this goroutine, so it is never unlocked.
		runtime.LockOSThread()
		cmd, err := start(binary, dir, keep, namespaces)
		out <- result{cmd, err}
	}()
	r := <-out
	if r.err != nil {
		return nil, fmt.Errorf("start the first process of a pod: %w", r.err)
	}
	return r.cmd, nil
}

func start(binary, dir string, keep func(pid int) error, namespaces []string) (*exec.Cmd, error) {
	for _, path := range namespaces {
		if err := enter(path); err != nil {
			return nil, err
		}
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	cmd := exec.Command(binary, arg)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = dir, []string{}, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, err
	}
	_ = ours.SetReadDeadline(time.Now().Add(readyTimeout))
	n, err := ours.Read(make([]byte, 1))
	if n != 1 {
		err = fmt.Errorf("it did not come up: %w", err)
	} else if err = keep(cmd.Process.Pid); err == nil {
		_, err = ours.Write([]byte{1})
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, errors.Join(err, reaped(cmd))
	}
	return cmd, nil
}

// reaped waits for a process that was killed, which is no error.
func reaped(cmd *exec.Cmd) error {
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		return err
	}
	return nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	// Theirs blocks: it reads when there is nothing else to do.
	if err := unix.SetNonblock(fds[1], false); err != nil {
		return nil, nil, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs"), nil
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
