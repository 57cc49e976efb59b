package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"shoal/test/eventually"
)

// TestFreeze: what runs in a pod's container stands still until it is let go, and
// a host without pods has nothing to freeze.
func TestFreeze(t *testing.T) {
	tree, err := Open(fmt.Sprintf("/shoalfreeze%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	mount := tree.freezer().mount
	if os.Getuid() != 0 || mount == "" {
		t.Skip("needs root and a freezer")
	}
	if err := tree.Freeze(); err != nil {
		t.Errorf("without pods: %v", err)
	}
	group := filepath.Join(mount, tree.root, "podx", "container")
	if err := os.MkdirAll(group, 0o755); err != nil {
		t.Skipf("cannot make control groups: %v", err)
	}
	defer func() {
		for dir := group; dir != mount; dir = filepath.Dir(dir) {
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
	pod := filepath.Dir(group) // a host short of CPU may take longer than Freeze waits
	eventually.True(t, "the pod to stand still", func() bool { return tree.freezer().stands(pod) })
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

// TestFreezeUnified writes to a cgroup v2 tree in a plain directory: only groups
// of pods are frozen, and none if the caller is in one.
func TestFreezeUnified(t *testing.T) {
	dir := t.TempDir()
	self := filepath.Join(dir, "self")
	tree := &Tree{unified: dir, root: "/n/host", self: self}
	if err := tree.Thaw(); err != nil {
		t.Errorf("without a root: %v", err)
	}
	pods := []string{"burstable", "besteffort", "podx"}
	others := []string{"", "daemon", "podx/container"}
	freezeFile := func(group string) string { return filepath.Join(dir, "n/host", group, "cgroup.freeze") }
	for _, group := range append(pods, others...) {
		if err := os.MkdirAll(filepath.Dir(freezeFile(group)), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"cgroup.freeze": "0", "cgroup.events": "populated 1\nfrozen 1\n"} {
			if err := os.WriteFile(filepath.Join(dir, "n/host", group, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	are := func(groups []string, want string) {
		t.Helper()
		for _, group := range groups {
			if got, err := os.ReadFile(freezeFile(group)); err != nil || string(got) != want {
				t.Errorf("cgroup.freeze of %q is %q, %v; want %q", group, got, err, want)
			}
		}
	}
	for own, refused := range map[string]bool{
		"/": false, "/n/host": false, "/n/host/daemon": false, "/n/host/podxy": false, "/../..": false,
		"/n/host/podx": true, "/n/host/podx/container": true, "/n/host/burstable/pody/c": true,
	} {
		if err := os.WriteFile(self, []byte("4:memory:/n/host/podx\n0::"+own+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := tree.Freeze(); (err != nil) != refused {
			t.Errorf("in %s: %v", own, err)
		}
		are(others, "0")
		if refused {
			are(pods, "0")
			continue
		}
		are(pods, "1")
		if err := tree.Thaw(); err != nil {
			t.Fatal(err)
		}
		are(pods, "0")
	}
	tree.self = filepath.Join(dir, "none")
	if tree.Freeze() == nil {
		t.Error("frozen without knowing where the caller is")
	}
	are(pods, "0")
	if (&Tree{unified: dir, root: "/"}).Freeze() == nil {
		t.Error("the whole host can be frozen")
	}
}
