//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stateFile = "lab.json"
	// lockWithin is how long a command waits for another one on the same lab;
	// kills and starts of several peers may well be typed at once.
	lockWithin = 2 * time.Minute
	poll       = 20 * time.Millisecond
)

// state is what lab.json holds.
type state struct {
	// Complete is set when every peer came up once; a lab without it is the
	// remains of an `up` that was killed.
	Complete bool         `json:"complete"`
	Shoal    string       `json:"shoal"`
	Subnet   netip.Prefix `json:"subnet"`
	Memory   int64        `json:"memoryBytes"`
	Separate bool         `json:"separate,omitempty"`
	Peers    []*peer      `json:"peers"`
	// StartFlags are those of `shoal start` that every peer gets besides the lab's.
	StartFlags []string `json:"startFlags,omitempty"`
	// Cuts are the directions in which frames are dropped.
	Cuts []direction `json:"cuts,omitempty"`
}

// peer is one host of the lab.
type peer struct {
	Number  int        `json:"number"`
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	Init    process    `json:"init"`
	Daemon  process    `json:"daemon"`
	Killed  bool       `json:"killed,omitempty"`
	// Started is set once the daemon was ready: it needs no token any more.
	Started bool   `json:"started,omitempty"`
	Slow    *Shape `json:"slow,omitempty"`
}

// direction is from one peer to another, by number.
type direction struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// process names a process for good: ids are used again, start times are not.
type process struct {
	Pid   int    `json:"pid"`
	Start string `json:"start"`
}

func processOf(pid int) process { return process{pid, startTime(pid)} }

func (p process) alive() bool { return p.Pid > 0 && p.Start != "" && startTime(p.Pid) == p.Start }

// startTime is field 22 of /proc/PID/stat, empty for a zombie or no process.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name before it is in parentheses and may hold spaces.
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const stateField, startField = 0, 19
	if len(fields) <= startField || fields[stateField] == "Z" || fields[stateField] == "X" {
		return ""
	}
	return fields[startField]
}

// identify derives a lab's id from its directory.
func identify(dir string) string {
	return fmt.Sprintf("%06x", crc32.ChecksumIEEE([]byte(dir))>>8)
}

// resolve gives a directory its one name.
func resolve(dir string) (string, error) {
	if dir == "" {
		dir = DefaultDir
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("resolve lab directory: %w", err)
	}
	return dir, nil
}

// read returns the record as it is now.
func (l *Lab) read() (*state, error) {
	data, err := os.ReadFile(filepath.Join(l.Dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s; start one with `sudo shoal lab up`, or name another with --dir", ErrNoLab, l.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read lab: %w", err)
	}
	s := new(state)
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("read lab %s: %w; take the lab down with `sudo shoal lab down`", filepath.Join(l.Dir, stateFile), err)
	}
	return s, nil
}

// peer finds a peer by its number.
func (s *state) peer(n int) (*peer, error) {
	if n < 1 || n > len(s.Peers) {
		return nil, fmt.Errorf("there is no peer %d: this lab has peers 1 to %d", n, len(s.Peers))
	}
	return s.Peers[n-1], nil
}

// peer finds a peer in the record.
func (l *Lab) peer(n int) (*peer, error) {
	s, err := l.read()
	if err != nil {
		return nil, err
	}
	return s.peer(n)
}

// save replaces lab.json; the caller holds the lock and mu.
func (l *Lab) save() error {
	data, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return fmt.Errorf("encode lab: %w", err)
	}
	path := filepath.Join(l.Dir, stateFile)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write lab: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write lab: %w", err)
	}
	return nil
}

// lock takes the lab's directory for this process until the result is called.
// The directory itself is what is locked, so that no lock file outlives it.
func lock(ctx context.Context, dir string) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, lockWithin)
	defer cancel()
	for {
		file, err := os.Open(dir)
		if err != nil {
			return nil, fmt.Errorf("lock lab: %w", err)
		}
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && isStill(file, dir) {
			return func() { _ = file.Close() }, nil
		}
		_ = file.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock lab: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock lab: another `shoal lab` command works on %s: %w", dir, ctx.Err())
		case <-time.After(poll):
		}
	}
}

// isStill tells whether dir is the directory that was opened, and not one made
// after that was removed.
func isStill(file *os.File, dir string) bool {
	held, err := file.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(dir)
	return err == nil && os.SameFile(held, now)
}

// removeDir removes what a lab wrote, and the directory if nothing else is in it.
func removeDir(dir string) error {
	if err := removeEntries(dir); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove lab directory: %w; what is in it is not the lab's", err)
	}
	return nil
}

// removeEntries removes the hosts' directories and the record, and nothing that
// somebody else put there.
func removeEntries(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove lab directory: %w", err)
	}
	for _, entry := range entries {
		_, notNumber := strconv.Atoi(entry.Name())
		if notNumber != nil && !strings.HasPrefix(entry.Name(), stateFile) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("remove lab directory: %w", err)
		}
	}
	return nil
}
