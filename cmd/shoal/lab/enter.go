//go:build linux

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
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
		result <- h.spawnHere(cmd, group, host)
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
		tasks := filepath.Join(h.memory, group, "tasks")
		if err := os.WriteFile(tasks, []byte(strconv.Itoa(unix.Gettid())), 0); err != nil {
			return fmt.Errorf("join control group: %w", err)
		}
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
