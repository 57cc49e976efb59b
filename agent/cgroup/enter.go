package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
)

// Enter puts a process in a group of its own below the pod's, which exists:
// on cgroup v2 processes are only in groups without groups below them. Remove
// takes the group away once the process has ended.
func (t *Tree) Enter(qos v1.PodQOSClass, podUID, name string, pid int) error {
	group := filepath.Join(t.PodPath(qos, podUID), name)
	dirs := []string{filepath.Join(t.unified, group)}
	if t.Unified() {
		if err := t.enableUnified(group); err != nil {
			return fmt.Errorf("enter control group %s: %w", group, err)
		}
	} else {
		dirs = dirs[:0]
		// Not cpuset's, which wants CPUs and memory named first.
		for _, controller := range []string{"cpu", "memory", "pids"} {
			dirs = append(dirs, filepath.Join(t.byController[controller], group))
		}
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("enter control group %s: %w", group, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("enter control group %s: %w", group, err)
		}
	}
	return nil
}
