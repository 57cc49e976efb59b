package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// UnifiedMount returns where the cgroup2 hierarchy is mounted, which on hosts
// that still use version 1 controllers is below /sys/fs/cgroup.
func UnifiedMount() (string, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if m.unified {
			return m.dir, nil
		}
	}
	return "", errors.New("find cgroup2: no such file system is mounted; mount one with: mount -t cgroup2 none /sys/fs/cgroup")
}

type cgroupMount struct {
	dir     string
	unified bool
}

func cgroupMounts() ([]cgroupMount, error) {
	file, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var mounts []cgroupMount
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 2 && strings.HasPrefix(fields[2], "cgroup") {
			mounts = append(mounts, cgroupMount{dir: fields[1], unified: fields[2] == "cgroup2"})
		}
	}
	return mounts, lines.Err()
}

// CgroupDirs lists the directories below the cgroup of that name in every
// hierarchy, deepest first.
func CgroupDirs(name string) ([]string, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, m := range mounts {
		err := filepath.WalkDir(filepath.Join(m.dir, name), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // went away while we walked
			}
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
	}
	slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) })
	return dirs, nil
}

// removeCgroups ends every process in the cgroups of that name, in whatever
// hierarchy, and removes them.
func removeCgroups(name string) error {
	deadline := time.Now().Add(goneWithin)
	for {
		dirs, err := CgroupDirs(name)
		if err != nil {
			return err
		}
		if len(dirs) == 0 {
			return nil
		}
		for _, dir := range dirs {
			killCgroup(dir)
			err = errors.Join(err, os.Remove(dir))
		}
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", name, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func killCgroup(dir string) {
	pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		kill(pid)
	}
}
