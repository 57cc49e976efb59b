package cgroup

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// killedWithin bounds how long killed processes may take to leave their groups;
// one that hangs in the kernel leaves later, and the removal is tried again then.
const (
	killedWithin = 5 * time.Second
	killedPoll   = 5 * time.Millisecond
)

// Kill ends whatever runs in a container's group, below the pod's, and waits for it
// within a limit.
func (t *Tree) Kill(pod, container string) { killAll(t.dirs(filepath.Join(pod, container))) }

// killAll kills whatever runs below dirs and waits until it has ended.
func killAll(dirs []string) {
	for deadline := time.Now().Add(killedWithin); time.Now().Before(deadline); time.Sleep(killedPoll) {
		pids := processesBelow(dirs)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// processesBelow lists the processes in groups at or below dirs.
func processesBelow(dirs []string) (pids []int) {
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Name() != "cgroup.procs" {
				return nil //nolint:nilerr // a group that has just gone has none
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil //nolint:nilerr // as above
			}
			for _, field := range strings.Fields(string(data)) {
				// 0 is a process of another process namespace, which no number names.
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	return pids
}
