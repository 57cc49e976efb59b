//go:build linux

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaces a host has of its own. The mount namespace goes last: the others
// are opened by their /proc path before.
var namespaces = []struct {
	name string
	flag int
}{
	{"net", unix.CLONE_NEWNET}, {"uts", unix.CLONE_NEWUTS}, {"ipc", unix.CLONE_NEWIPC},
	{"pid", unix.CLONE_NEWPID}, {"mnt", unix.CLONE_NEWNS},
}

// spawn starts cmd in the group, and in the namespaces of the process host if
// that is not 0. The thread that starts it takes them on first; it is given up
// afterwards and not used for anything else.
func (h hierarchies) spawn(cmd *exec.Cmd, group string, host int) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if unix.Gettid() != unix.Getpid() {
			result <- h.spawnHere(cmd, group, host)
			return
		}
		// The first thread does not end before the program does, and its
		// namespaces are what /proc/self shows. While it is held, others run.
		inner := make(chan error, 1)
		go func() {
			runtime.LockOSThread()
			inner <- h.spawnHere(cmd, group, host)
		}()
		result <- <-inner
		runtime.UnlockOSThread()
	}()
	return <-result
}

func (h hierarchies) spawnHere(cmd *exec.Cmd, group string, host int) error {
	for _, root := range h.joined() {
		if err := os.MkdirAll(filepath.Join(root, group), 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
	}
	if h.memory != "" {
		back, err := h.joinMemory(group)
		if err != nil {
			return err
		}
		defer back()
	}
	dir, err := os.Open(filepath.Join(h.unified, group))
	if err != nil {
		return fmt.Errorf("open control group: %w", err)
	}
	defer func() { _ = dir.Close() }()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	if host != 0 {
		if err := enter(host); err != nil {
			return err
		}
	}
	return cmd.Start()
}

// joinMemory moves the calling thread to a group of the version 1 memory
// controller; what it returns moves it back, since a process counts as a member
// of every group that one of its threads is in.
func (h hierarchies) joinMemory(group string) (back func(), err error) {
	own, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find this program's control group: %w", err)
	}
	home := ""
	for line := range strings.Lines(string(own)) {
		// ID:CONTROLLERS:PATH
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 && slices.Contains(strings.Split(parts[1], ","), "memory") {
			home = parts[2]
		}
	}
	thread := []byte(strconv.Itoa(unix.Gettid()))
	// Opened now: in the host's namespaces the path may be another.
	old, err := os.OpenFile(filepath.Join(h.memory, home, "tasks"), os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open this program's control group: %w", err)
	}
	if err := os.WriteFile(filepath.Join(h.memory, group, "tasks"), thread, 0); err != nil {
		_ = old.Close()
		return nil, fmt.Errorf("join control group: %w", err)
	}
	return func() {
		_, _ = old.Write(thread)
		_ = old.Close()
	}, nil
}

// enter takes the calling thread into the namespaces of a process.
func enter(pid int) error {
	// A thread that shares its root and working directory may not change its
	// mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the thread's file system attributes: %w", err)
	}
	files := make([]*os.File, len(namespaces))
	for i, ns := range namespaces {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name))
		if err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		defer func() { _ = file.Close() }()
		files[i] = file
	}
	for i, ns := range namespaces {
		if err := unix.Setns(int(files[i].Fd()), ns.flag); err != nil {
			return fmt.Errorf("enter %s namespace: %w", ns.name, err)
		}
	}
	return nil
}
