//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/agent/cgroup"
	"shoal/store"
)

// TestPodsHeldUp: pods stand still from when the store finds no space until they
// are let go, or the daemon's start ends.
func TestPodsHeldUp(t *testing.T) {
	const freezer = "/sys/fs/cgroup/freezer"
	mount, err := cgroup2Mount()
	if err != nil {
		t.Skip(err)
	}
	name := fmt.Sprintf("shoalheld%d", os.Getpid())
	groups := []string{filepath.Join(mount, name)}
	state := filepath.Join(groups[0], "cgroup.freeze")
	frozen, thawed := "1", "0"
	if tree, err := cgroup.Open(name); err != nil {
		t.Skip(err)
	} else if !tree.Unified() {
		groups = append(groups, filepath.Join(freezer, name))
		state, frozen, thawed = filepath.Join(freezer, name, "freezer.state"), "FROZEN", "THAWED"
	}
	for _, group := range groups {
		if err := os.Mkdir(group, 0o755); err != nil {
			t.Skipf("cannot make control groups: %v", err)
		}
		defer os.Remove(group)
	}
	is := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(state); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, %v; want %q", state, got, err, want)
		}
	}
	p := &peer{config: Config{CgroupRoot: groups[0]}, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	p.noLongerHold() // held nothing
	is(thawed)
	p.holdPods(0)
	is(frozen)
	p.releasePods()
	is(thawed)
	p.holdPods(0)
	is(frozen)
	p.noLongerHold()
	is(thawed)
}

// TestTakersNamed: a store that found no space says what has taken it.
func TestTakersNamed(t *testing.T) {
	dir := t.TempDir()
	for path, size := range map[string]int{"pods/uid-1/volumes/x": 3 << 20, "pods/uid-1/volumes/y": 2 << 20, "pods/uid-2/z": 1 << 20, "small": 10} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	full := &store.NoSpaceError{Dir: "/d", NeedBytes: 8 << 20, Opening: true}
	err := withTakers(t.Context(), fmt.Errorf("w: %w", full), dir, filepath.Join(dir, "none"))
	want := fmt.Sprintf("then start again; the most is in %s/pods/uid-1 (5 MiB), %s/pods/uid-2 (1 MiB)", dir, dir)
	if !errors.Is(err, error(full)) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\nwant %s", err, want)
	}
	other := errors.New("other")
	if got := withTakers(t.Context(), other, dir); got != other {
		t.Errorf("%v", got)
	}
}
