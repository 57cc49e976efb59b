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
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
// namespaces whose paths are given. users is the path of the user namespace that
// is to own it, "" for the host's. dir is an existing directory below which
// nothing is mounted. keep is told its number and notes it where a later daemon
// finds it; if it fails, or this process dies before it has returned, the first
// process ends. wait reaps the process and must be called.
func Start(program, dir, users string, keep func(pid int) error, namespaces ...string) (wait func(), err error) {
	type result struct {
		process *os.Process
		err     error
	}
	out := make(chan result, 1)
	go func() {
		// A child has its parent thread's namespaces, and this thread must end
		// with this goroutine, so it is never unlocked.
		runtime.LockOSThread()
		process, err := start(program, dir, users, keep, namespaces)
		out <- result{process, err}
	}()
	r := <-out
	if r.err != nil {
		return nil, fmt.Errorf("start the first process of a pod: %w", r.err)
	}
	return func() { _, _ = r.process.Wait() }, nil
}

func start(program, dir, users string, keep func(pid int) error, namespaces []string) (*os.Process, error) {
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
	_ = ours.SetReadDeadline(time.Now().Add(readyTimeout))
	process, err := launch(program, dir, users, ours, theirs)
	_ = theirs.Close()
	if err != nil {
		return nil, err
	}
	n, err := ours.Read(make([]byte, 1))
	if n != 1 {
		err = fmt.Errorf("it did not come up: %w", err)
	} else if err = keep(process.Pid); err == nil {
		_, err = ours.Write([]byte{1})
	}
	if err != nil {
		_ = process.Kill()
		_, waited := process.Wait()
		return nil, errors.Join(err, waited)
	}
	return process, nil
}

// launch starts the process. One in a user namespace is made by another, as a
// process of many threads, like this one, cannot enter any.
func launch(program, dir, users string, ours, theirs *os.File) (*os.Process, error) {
	cmd := exec.Command(program, arg)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = dir, []string{}, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if users == "" {
		err := cmd.Start()
		return cmd.Process, err
	}
	ns, err := os.Open(users)
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	defer ns.Close()
	cmd.Args, cmd.ExtraFiles = append(cmd.Args, "users"), append(cmd.ExtraFiles, ns)
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("enter user namespace %s: %w", users, err)
	}
	var number [4]byte
	if _, err := io.ReadFull(ours, number[:]); err != nil {
		return nil, fmt.Errorf("read its number: %w", err)
	}
	return os.FindProcess(int(binary.NativeEndian.Uint32(number[:])))
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
