package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/firstproc"
	"shoal/agent/oci"
)

const (
	// pinPID is the pin of a process namespace that the pod's containers share.
	pinPID = "pid"
	// firstFile names the namespace's first process, in the pod's directory.
	firstFile = "first"
	// firstEnd bounds the end of a first process after its SIGKILL.
	firstEnd = 5 * time.Second
)

func sharesProcesses(pod *v1.Pod) bool {
	return pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace
}

// processes is the process namespace of a container, in oci's terms: the
// host's, the pod's, another container's, or "" for one of its own.
func (w *worker) processes(pod *v1.Pod, s *slot) (string, error) {
	switch {
	case pod.Spec.HostPID:
		return oci.HostPID, nil
	case sharesProcesses(pod):
		return w.sharedProcesses(pod)
	case s.target != "":
		return w.processesOf(s.target)
	}
	return "", nil
}

// sharedProcesses is the pod's process namespace, made when the first
// container starts, and again when its first process was killed: the kernel
// then has killed all others.
func (w *worker) sharedProcesses(pod *v1.Pod) (string, error) {
	uid := string(pod.UID)
	path := w.r.pins.path(uid, pinPID)
	if fd, err := w.r.openFirst(uid); err == nil {
		_ = unix.Close(fd)
		return path, nil
	}
	dir := filepath.Join(w.podDir(pod), "empty")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("share processes: %w", err)
	}
	var others []string
	if w.box.netns != "" {
		others = append(others, w.box.netns)
	}
	if !pod.Spec.HostIPC {
		others = append(others, w.r.pins.path(uid, "ipc"))
	}
	if !pod.Spec.HostNetwork {
		others = append(others, w.r.pins.path(uid, "uts"))
	}
	users := ""
	if w.box.users != nil {
		users = w.box.users.path
	}
	wait, err := firstproc.Start(w.r.LogWriter, dir, users, func(pid int) error { return w.keepFirst(pod, pid) }, others...)
	if err != nil {
		return "", err
	}
	// It outlives the worker when the daemon stops, so nobody waits for this.
	go wait()
	return path, nil
}

// keepFirst notes a first process, pins its namespace and puts it in the
// pod's group.
func (w *worker) keepFirst(pod *v1.Pod, pid int) error {
	uid := string(pod.UID)
	if err := w.r.Cgroups.Enter(QOSClass(pod), uid, firstFile, pid); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.podDir(pod), firstFile), []byte(strconv.Itoa(pid)), 0o600); err != nil {
		return fmt.Errorf("note the first process: %w", err)
	}
	return w.r.pins.pin(uid, pinPID, filepath.Join("/proc", strconv.Itoa(pid), "ns", "pid"))
}

// openFirst opens the living first process of a pod. A number that another
// process has got since does not pass for it.
func (r *Runner) openFirst(uid string) (int, error) {
	data, err := os.ReadFile(filepath.Join(r.DataDir, "pods", uid, firstFile))
	if err != nil {
		return -1, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return -1, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, err
	}
	if !r.isFirst(uid, pid) {
		_ = unix.Close(fd)
		return -1, fs.ErrNotExist
	}
	return fd, nil
}

func (r *Runner) isFirst(uid string, pid int) bool {
	var pin, has unix.Stat_t
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	if unix.Stat(r.pins.path(uid, pinPID), &pin) != nil || unix.Stat(filepath.Join(proc, "ns", "pid"), &has) != nil || pin.Ino != has.Ino {
		return false
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil || strings.Contains(string(status), "\nState:\tZ") {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(numbers)
			return len(fields) > 1 && fields[len(fields)-1] == "1"
		}
	}
	return false
}

// dropFirst ends a pod's first process, and with it whatever is left in its
// namespace.
func (r *Runner) dropFirst(uid string) error {
	fd, err := r.openFirst(uid)
	if err != nil {
		return nil // there is none
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end the pod's first process: %w", err)
	}
	// A pidfd is readable once its process has ended (Linux 5.3).
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(firstEnd.Milliseconds()))
	if err == nil && n == 0 {
		return fmt.Errorf("end the pod's first process: it lives after %s", firstEnd)
	}
	return nil
}
