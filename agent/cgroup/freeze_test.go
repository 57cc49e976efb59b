package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestFreeze: what runs in a pod's container stands still until it is let go, and
// a host without pods has nothing to freeze.
func TestFreeze(t *testing.T) {
	tree, err := Open(fmt.Sprintf("/shoalfreeze%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	file, _, _ := tree.freezer(true)
	if os.Getuid() != 0 || file == "" {
		t.Skip("needs root and a freezer")
	}
	if err := tree.Freeze(); err != nil {
		t.Errorf("without pods: %v", err)
	}
	group := filepath.Join(filepath.Dir(file), "podx", "container")
	if err := os.MkdirAll(group, 0o755); err != nil {
		t.Skipf("cannot make control groups: %v", err)
	}
	defer func() {
		for dir := group; filepath.Base(dir) != filepath.Base(filepath.Dir(filepath.Dir(file))); dir = filepath.Dir(dir) {
			_ = os.Remove(dir)
		}
	}()
	counted := filepath.Join(t.TempDir(), "counted")
	cmd := exec.Command("/bin/sh", "-c", `while :; do echo >> `+counted+`; sleep 0.005; done`)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = tree.Thaw()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		st, err := os.Stat(counted)
		if err != nil {
			return 0
		}
		return st.Size()
	}
	goesOn := func(from int64) bool {
		for range 1000 {
			if size() > from {
				return true
			}
			time.Sleep(5 * time.Millisecond)
		}
		return false
	}
	if !goesOn(0) {
		t.Fatal("it does not run")
	}
	if err := tree.Freeze(); err != nil {
		t.Fatal(err)
	}
	stood := size()
	time.Sleep(100 * time.Millisecond)
	if now := size(); now != stood {
		t.Errorf("it went on while frozen: %d, then %d", stood, now)
	}
	if err := tree.Thaw(); err != nil {
		t.Fatal(err)
	}
	if !goesOn(stood) {
		t.Error("it does not go on after")
	}
}

// TestFreezeUnified writes to a cgroup v2 tree in a plain directory.
func TestFreezeUnified(t *testing.T) {
	dir := t.TempDir()
	tree := &Tree{unified: dir, root: "/shoal"}
	if err := os.Mkdir(filepath.Join(dir, "shoal"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cgroup.freeze": "0", "cgroup.events": "populated 1\nfrozen 1\n"} {
		if err := os.WriteFile(filepath.Join(dir, "shoal", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"1", "0"} {
		change := tree.Thaw
		if want == "1" {
			change = tree.Freeze
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "shoal", "cgroup.freeze")); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("cgroup.freeze is %q, %v; want %q", got, err, want)
		}
	}
	if (&Tree{unified: dir, root: "/"}).Freeze() == nil {
		t.Error("the whole host can be frozen")
	}
}
