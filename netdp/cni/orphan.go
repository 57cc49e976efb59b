package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A plugin outlives a daemon that is killed. What it made after the next daemon's
// DEL nobody would take away, so it ends before that one's first plugin runs, as it
// would have with a daemon that is stopped. It is known by its environment, which is
// there from the plugin's first instruction on: a note of its number could come too
// late.

const (
	// stateEnv tells whose a plugin is: the driver's with that directory of state.
	stateEnv = ownEnv + "CNI_STATE"
	// orphanLimit bounds the end of a plugin after its SIGKILL: one that waits for a
	// device does not end before that answers, and does nothing more when it does.
	orphanLimit = 5 * time.Second
	orphanPoll  = 5 * time.Millisecond
)

// endOrphans kills the plugins of earlier daemons with all that they run, and waits
// for their end. No plugin of this daemon runs yet.
func endOrphans(stateDir string, log *slog.Logger) error {
	state, err := os.Stat(stateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no pod has ever had a record
	}
	if err != nil {
		return fmt.Errorf("look for plugins of an earlier daemon: %w", err)
	}
	groups := map[int]bool{}
	for _, p := range processes() {
		if !p.leads() || !p.isOf(state) {
			continue
		}
		log.Warn("a CNI plugin of an earlier daemon still runs: it is killed", "pid", p.pid)
		if err := syscall.Kill(-p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill plugin of an earlier daemon, process %d: %w", p.pid, err)
		}
		groups[p.pid] = true
	}
	for end := time.Now().Add(orphanLimit); anyRuns(groups); time.Sleep(orphanPoll) {
		if time.Now().After(end) {
			log.Warn("CNI plugins of an earlier daemon do not end, though killed", "after", orphanLimit)
			return nil
		}
	}
	return nil
}

func anyRuns(groups map[int]bool) bool {
	if len(groups) == 0 {
		return false
	}
	for _, p := range processes() {
		if groups[p.group] && !p.ended {
			return true
		}
	}
	return false
}

// process is what proc(5)'s stat says of one.
type process struct {
	pid, group, session int
	ended               bool // only its parent has not asked for it yet
}

// leads tells whether a process is one that runOnce starts: a group's first, and no
// session's. What a plugin leaves behind for its pod stays in the plugin's group, or
// has a session of its own.
func (p process) leads() bool { return p.pid == p.group && p.pid != p.session && !p.ended }

// isOf tells whether it is a plugin of the driver with that directory of state. The
// same path may be another daemon's, with a file system of its own.
func (p process) isOf(state fs.FileInfo) bool {
	dir := filepath.Join("/proc", strconv.Itoa(p.pid))
	environ, err := os.ReadFile(filepath.Join(dir, "environ"))
	if err != nil {
		return false
	}
	for kv := range strings.SplitSeq(string(environ), "\x00") {
		if path, ok := strings.CutPrefix(kv, stateEnv+"="); ok {
			theirs, err := os.Stat(filepath.Join(dir, "root", path))
			return err == nil && os.SameFile(state, theirs)
		}
	}
	return false
}

// processes are all that there are; those that end meanwhile may be missing.
func processes() []process {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	out := make([]process, 0, len(files))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		p := process{}
		var state string
		text := string(data)
		behind := text[strings.LastIndexByte(text, ')')+1:] // the name may hold anything
		if _, err := fmt.Sscan(behind, &state, new(int), &p.group, &p.session); err != nil {
			continue
		}
		p.pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(file)))
		p.ended = state == "Z" || state == "X"
		out = append(out, p)
	}
	return out
}
