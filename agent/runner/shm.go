package runner

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/volume"
)

// shmOptions bound the pod's shared memory as containerd does for one
// container.
const shmOptions = "mode=1777,size=65536k"

// makeShm makes the /dev/shm that the pod's containers share. A lone
// container has one of its own from runc, which saves a mount.
func (w *worker) makeShm(pod *v1.Pod) error {
	if w.lasting() < 2 || pod.Spec.HostIPC {
		return nil
	}
	dir := w.shmDir(pod)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make shared memory: %w", err)
	}
	if volume.IsMountPoint(dir) {
		return nil
	}
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, shmOptions); err != nil {
		return fmt.Errorf("mount shared memory: %w", err)
	}
	return nil
}

func (w *worker) shmDir(pod *v1.Pod) string {
	if pod.Spec.HostIPC {
		return "/dev/shm"
	}
	return filepath.Join(w.podDir(pod), "shm")
}

func dropShm(dir string) error {
	if !volume.IsMountPoint(dir) {
		return nil
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount shared memory: %w", err)
	}
	return nil
}
