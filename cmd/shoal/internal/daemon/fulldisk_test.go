//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"shoal/agent/cgroup"
	"shoal/store"
)

// heldBed is a peer whose cgroup root has one group of pods. is checks its state.
func heldBed(t *testing.T) (p *peer, is func(frozen bool)) {
	const freezer = "/sys/fs/cgroup/freezer"
	mount, err := cgroup2Mount()
	if err != nil {
		t.Skip(err)
	}
	name := fmt.Sprintf("shoalheld%d", os.Getpid())
	groups := []string{filepath.Join(mount, name)}
	state, want := filepath.Join(groups[0], "besteffort", "cgroup.freeze"), map[bool]string{true: "1", false: "0"}
	if tree, err := cgroup.Open(name); err != nil {
		t.Skip(err)
	} else if !tree.Unified() {
		groups = append(groups, filepath.Join(freezer, name))
		state, want = filepath.Join(freezer, name, "besteffort", "freezer.state"), map[bool]string{true: "FROZEN", false: "THAWED"}
	}
	for _, group := range groups {
		for _, dir := range []string{group, filepath.Join(group, "besteffort")} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Skipf("cannot make control groups: %v", err)
			}
			t.Cleanup(func() { _ = os.Remove(dir) })
		}
	}
	return &peer{config: Config{CgroupRoot: groups[0]}, log: slog.New(slog.NewTextHandler(t.Output(), nil))}, func(frozen bool) {
		t.Helper()
		if got, err := os.ReadFile(state); err != nil || strings.TrimSpace(string(got)) != want[frozen] {
			t.Errorf("%s is %q, %v; want %q", state, got, err, want[frozen])
		}
	}
}

// TestPodsHeldUp: pods stand still from when the store finds no space until they
// are let go, or the daemon's start ends.
func TestPodsHeldUp(t *testing.T) {
	p, is := heldBed(t)
	p.noLongerHold() // held nothing
	is(false)
	p.held.over = false
	p.holdPods(0)
	is(true)
	p.releasePods()
	is(false)
	p.holdPods(0)
	is(true)
	p.noLongerHold()
	is(false)
}

// TestPodsOfKilledDaemonReleased: pods that a killed daemon held go on when the
// next one starts, also if that fails at its first step.
func TestPodsOfKilledDaemonReleased(t *testing.T) {
	killed, is := heldBed(t)
	killed.holdPods(0)
	killed.held.until.Stop()
	is(true)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	next := &peer{config: killed.config, log: killed.log}
	next.config.APIAddr = taken.Addr().String()
	if err := next.run(t.Context(), nil, nil); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("run: %v", err)
	}
	is(false)
}

// TestReleaseTriedAgain: pods that cannot be let go on are as soon as they can,
// after a first look as after the longest hold.
func TestReleaseTriedAgain(t *testing.T) {
	p, is := heldBed(t)
	synctest.Test(t, func(t *testing.T) {
		root := func(dir string) (before string) {
			p.held.mu.Lock()
			defer p.held.mu.Unlock()
			before, p.config.CgroupRoot = p.config.CgroupRoot, dir
			return before
		}
		later := func(wait time.Duration) {
			time.Sleep(wait)
			synctest.Wait()
		}
		for name, fail := range map[string]func(){
			"looked": p.releasePods, "longest": func() { later(heldLongest) },
		} {
			p.holdPods(0)
			good := root("/nowhere")
			fail()
			later(3 * releaseRetry)
			t.Log(name)
			is(true)
			root(good)
			later(releaseRetry)
			is(false)
			if p.held.until != nil {
				t.Error("it is let go on once more")
			}
		}
		p.holdPods(0)
		root("/nowhere")
		p.noLongerHold()
		if p.held.until != nil {
			t.Error("tried again after the daemon's end")
		}
	})
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
	if got := withTakers(t.Context(), other, dir); !errors.Is(got, other) || got.Error() != other.Error() {
		t.Errorf("%v", got)
	}
}
