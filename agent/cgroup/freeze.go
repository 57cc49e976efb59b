package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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

// Freeze stops whatever runs in the groups of pods. Without any there is nothing
// to do.
func (t *Tree) Freeze() error { return t.freeze(true) }

// Thaw lets it go on. It may be called without a Freeze before.
func (t *Tree) Thaw() error { return t.freeze(false) }

func (t *Tree) freeze(frozen bool) error {
	if t.root == "/" {
		return errors.New("freeze pods: they have no control group of their own")
	}
	file, text, reached := t.freezer(frozen)
	if file == "" && !frozen {
		return nil // nothing can be frozen
	}
	if file == "" {
		return errors.New("freeze pods: the host has no freezer for control groups")
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("freeze pods: %w", err)
	}
	defer f.Close()
	for deadline := time.Now().Add(frozenWithin); ; time.Sleep(frozenPoll) {
		if _, err := f.WriteString(text); err != nil { // v1 tries again only if told again
			return fmt.Errorf("freeze pods: %w", err)
		}
		if !frozen || reached() || time.Now().After(deadline) {
			return nil
		}
	}
}

// freezer is the file that freezes all pods and what is written to it.
func (t *Tree) freezer(frozen bool) (file, text string, reached func() bool) {
	if t.Unified() {
		dir := filepath.Join(t.unified, t.root)
		text = "0"
		if frozen {
			text = "1"
		}
		return filepath.Join(dir, "cgroup.freeze"), text, func() bool {
			events, _ := os.ReadFile(filepath.Join(dir, "cgroup.events"))
			return strings.Contains(string(events), "frozen 1")
		}
	}
	mount := t.byController["freezer"]
	if mount == "" {
		return "", "", nil
	}
	text = "THAWED"
	if frozen {
		text = "FROZEN"
	}
	file = filepath.Join(mount, t.root, "freezer.state")
	return file, text, func() bool {
		state, _ := os.ReadFile(file)
		return strings.TrimSpace(string(state)) == "FROZEN"
	}
}
