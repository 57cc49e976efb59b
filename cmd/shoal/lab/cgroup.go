//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// goneWithin bounds how long killed processes may take to leave a group; one
// that writes to a slow disk takes a while.
const goneWithin = 30 * time.Second

// hierarchies are the control group file systems of the machine. A version 1
// machine has one per controller beside the unified one.
type hierarchies struct {
	unified string
	memory  string // version 1 memory controller's, empty if it is the unified one's or absent
	all     []string
}

func findHierarchies() (hierarchies, error) {
	var h hierarchies
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return h, fmt.Errorf("read mounts: %w", err)
	}
	for _, m := range mounts {
		if m.Root != "/" {
			continue
		}
		h.all = append(h.all, m.Mountpoint)
		if m.FSType == "cgroup2" && h.unified == "" {
			h.unified = m.Mountpoint
		}
		if m.FSType == "cgroup" && slices.Contains(strings.Split(m.VFSOptions, ","), "memory") {
			h.memory = m.Mountpoint
		}
	}
	if h.unified == "" {
		return h, errors.New("no cgroup2 hierarchy is mounted, which services need; mount it with `mount -t cgroup2 none /sys/fs/cgroup`")
	}
	return h, nil
}

// joined are the hierarchies a process of the lab joins: all others bound
// nothing, and containers make their own groups there.
func (h hierarchies) joined() []string {
	if h.memory == "" {
		return []string{h.unified}
	}
	return []string{h.unified, h.memory}
}

// limit makes the group and bounds the memory of all below it. It reports
// whether the machine has a memory controller to bound it by.
func (h hierarchies) limit(group string, memory int64) (bool, error) {
	for _, root := range h.joined() {
		if err := os.MkdirAll(filepath.Join(root, group), 0o755); err != nil {
			return false, fmt.Errorf("make control group: %w", err)
		}
	}
	file := filepath.Join(h.memory, group, "memory.limit_in_bytes")
	if h.memory == "" {
		if err := enableMemory(h.unified, filepath.Dir(group)); err != nil {
			return false, err
		}
		file = filepath.Join(h.unified, group, "memory.max")
	}
	err := os.WriteFile(file, []byte(strconv.FormatInt(memory, 10)), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("limit memory: %w", err)
	}
	return true, nil
}

// enableMemory hands the memory controller down to the groups in parent.
func enableMemory(root, parent string) error {
	dir := root
	for name := range strings.SplitSeq(parent, "/") {
		dir = filepath.Join(dir, name)
		available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil || !slices.Contains(strings.Fields(string(available)), "memory") {
			return nil // none to hand down; limit finds that out
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
			return fmt.Errorf("enable the memory controller in %s: %w", dir, err)
		}
	}
	return nil
}

// dirs lists the directories of a group in every hierarchy, deepest first.
func (h hierarchies) dirs(group string) ([]string, error) {
	var dirs []string
	for _, root := range h.all {
		err := filepath.WalkDir(filepath.Join(root, group), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil // went away while we walked
			}
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list control groups: %w", err)
		}
	}
	slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) })
	return dirs, nil
}

// processes are the ids of all processes in a group or below it, but for this
// one, of which a thread is in there while it starts something.
func (h hierarchies) processes(group string) ([]int, error) {
	dirs, err := h.dirs(group)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue // went away
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 && pid != os.Getpid() {
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// remove kills everything in a group, in whatever hierarchy, waits until it is
// gone and removes the group.
func (h hierarchies) remove(ctx context.Context, group string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goneWithin)
	defer cancel()
	killed := map[process]bool{}
	for {
		pids, err := h.processes(group)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			killed[processOf(pid)] = true
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		dirs, err := h.dirs(group)
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			if rmErr := os.Remove(dir); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
				err = errors.Join(err, rmErr)
			}
		}
		// A process leaves its group a little before it is gone.
		for p := range killed {
			if err == nil && p.alive() {
				err = fmt.Errorf("process %d does not end", p.Pid)
			}
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove control group %s, processes %v: %w", group, pids, err)
		case <-time.After(poll):
		}
	}
}
