package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Of a frozen group nothing runs until it is thawed, nor dies of a signal on
// cgroup v1 (the kernel's cgroup-v1/freezer-subsystem and cgroup-v2,
// "cgroup.freeze").
const (
	// frozenWithin bounds the wait until all have stopped; one that sleeps in the
	// kernel stops as it wakes.
	frozenWithin = 2 * time.Second
	frozenPoll   = 5 * time.Millisecond
)

// Freeze stops whatever runs in the groups of pods; the root's own processes go
// on, which may be the caller's. Without pods there is nothing to do. It refuses
// if the caller is in a pod's group. After an error some may be frozen: Thaw.
func (t *Tree) Freeze() error {
	if t.root == "/" {
		return errors.New("freeze pods: they have no control group of their own")
	}
	f := t.freezer()
	if f.mount == "" {
		return errors.New("freeze pods: the host has no freezer for control groups")
	}
	groups, err := t.groupsOfPods(f.mount)
	if err != nil {
		return fmt.Errorf("freeze pods: %w", err)
	}
	if err := t.notMine(f, groups); err != nil {
		return fmt.Errorf("freeze pods: %w", err)
	}
	for deadline := time.Now().Add(frozenWithin); ; time.Sleep(frozenPoll) {
		if err := f.write(groups, f.freeze); err != nil { // v1 tries again only if told again
			return fmt.Errorf("freeze pods: %w", err)
		}
		groups = slices.DeleteFunc(groups, f.stands)
		if len(groups) == 0 || time.Now().After(deadline) {
			return nil
		}
	}
}

// Thaw lets them go on. It may be called without a Freeze before.
func (t *Tree) Thaw() error {
	f := t.freezer()
	if t.root == "/" || f.mount == "" {
		return nil // nothing can be frozen
	}
	groups, err := t.groupsOfPods(f.mount)
	if err == nil {
		err = f.write(groups, f.thaw)
	}
	if err != nil {
		return fmt.Errorf("thaw pods: %w", err)
	}
	return nil
}

// groupsOfPods are the directories below the root that pods are in: those of
// the classes, and of each guaranteed pod.
func (t *Tree) groupsOfPods(mount string) ([]string, error) {
	dir := filepath.Join(mount, t.root)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if name := e.Name(); e.IsDir() && (name == "burstable" || name == "besteffort" || strings.HasPrefix(name, "pod")) {
			out = append(out, filepath.Join(dir, name))
		}
	}
	return out, nil
}

// notMine fails if this process is in one of groups or below: frozen, it could
// not thaw itself.
func (t *Tree) notMine(f freezer, groups []string) error {
	data, err := os.ReadFile(t.self)
	if err != nil {
		return fmt.Errorf("find this process's control group: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // number:controllers:path
		if len(parts) != 3 || !slices.Contains(strings.Split(parts[1], ","), f.controller) {
			continue
		}
		own := filepath.Join(f.mount, parts[2])
		for _, group := range groups {
			if own == group || strings.HasPrefix(own, group+"/") {
				return fmt.Errorf("this process is in the control group %s itself; start it outside of pods' groups", own)
			}
		}
	}
	return nil
}

// freezer is how groups are frozen in one version of control groups.
type freezer struct {
	mount      string // of the hierarchy; empty: the host has no freezer
	controller string // as in /proc/self/cgroup; empty in v2
	file       string // of each group; what is written to it:
	freeze     string
	thaw       string
	state      string // the file that says whether all stand still, with this line in it:
	frozen     string
}

func (t *Tree) freezer() freezer {
	if t.Unified() {
		return freezer{t.unified, "", "cgroup.freeze", "1", "0", "cgroup.events", "frozen 1"}
	}
	return freezer{t.byController["freezer"], "freezer", "freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN"}
}

// write writes text for every group, also after an error. A group that has gone
// needs nothing.
func (f freezer) write(groups []string, text string) error {
	var errs []error
	for _, group := range groups {
		err := writeExisting(filepath.Join(group, f.file), text)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func writeExisting(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(text)
	return err
}

// stands reports whether nothing in the group runs; one that has gone has
// nothing.
func (f freezer) stands(group string) bool {
	state, err := os.ReadFile(filepath.Join(group, f.state))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
	}
	for line := range strings.Lines(string(state)) {
		if strings.TrimSpace(line) == f.frozen {
			return true
		}
	}
	return false
}
