package runner

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/agent/internal/testbed"
)

// shim starts a shim as containerd does, in a bundle of its own, and gives the
// bundle and the shim's number. Nobody reads its log, for which it waits.
func (b *bed) shim(id string) (bundle string, pid int) {
	b.t.Helper()
	bundle = filepath.Join(b.ctrd.Dir(), "state", "io.containerd.runtime.v2.task", testbed.Namespace, id)
	if err := os.MkdirAll(bundle, 0o711); err != nil {
		b.t.Fatal(err)
	}
	spec, err := json.Marshal(map[string]any{"ociVersion": "1.0.2"})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(bundle, "log"), 0o700); err != nil {
		b.t.Fatal(err)
	}
	start := exec.Command("containerd-shim-runc-v2", "-namespace", testbed.Namespace, "-id", id, "-address", b.ctrd.Socket, "start")
	start.Dir = bundle
	start.Env = append(os.Environ(), "TTRPC_ADDRESS="+b.ctrd.Socket+".ttrpc")
	if out, err := start.CombinedOutput(); err != nil {
		b.t.Fatalf("start a shim: %v: %s", err, out)
	}
	files, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, file := range files {
		if at, err := os.Readlink(file); err == nil && at == bundle {
			pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	if pid == 0 {
		b.t.Fatal("there is no shim")
	}
	b.t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
	waitFor(b.t, "the shim to wait for its log", func() bool {
		fds, _ := filepath.Glob(procFile(pid, "fd", "*"))
		return slices.ContainsFunc(fds, func(fd string) bool {
			name, _ := os.Readlink(fd)
			return name == filepath.Join(bundle, "log")
		})
	})
	return bundle, pid
}

// dead reports whether a process has ended, waited for or not.
func dead(pid int) bool {
	stat, err := os.ReadFile(procFile(pid, "stat"))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

// forget takes a bundle away as containerd does.
func forget(t *testing.T, bundle string) {
	t.Helper()
	hidden := filepath.Join(filepath.Dir(bundle), "."+filepath.Base(bundle))
	if err := os.Rename(bundle, hidden); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(hidden); err != nil {
		t.Fatal(err)
	}
}

// TestForgottenShimEnds: a start ends a shim that containerd knows no more, and
// no other: not one whose bundle is there, not one that serves another bundle.
func TestForgottenShimEnds(t *testing.T) {
	b := newBed(t)
	p := pod("lives", sleeper)
	b.runner.Set(p)
	b.phase(p, "Running")
	b.stop()
	bundle, forgotten := b.shim("forgotten")
	socketOf := func(bundle string) string {
		address, err := os.ReadFile(filepath.Join(bundle, "address"))
		if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimPrefix(string(address), "unix://")
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	socket := socketOf(bundle)
	forget(t, bundle)
	bundle, serves := b.shim("serves")
	address, err := os.ReadFile(filepath.Join(bundle, "address"))
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(filepath.Dir(bundle), "other")
	if err := os.Mkdir(other, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "address"), address, 0o600); err != nil {
		t.Fatal(err)
	}
	forget(t, bundle)
	bundle, known := b.shim("known")
	others := []string{socketOf(other), socketOf(bundle)}
	b.start()
	waitFor(t, "the forgotten shim to end", func() bool { return dead(forgotten) })
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket of a shim that was ended: %v", err)
	}
	for _, path := range others {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("the socket of another: %v", err)
		}
	}
	for name, pid := range map[string]int{"serves another": serves, "is known": known} {
		if dead(pid) {
			t.Errorf("a shim that %s was ended", name)
		}
	}
	p.Status = b.last(p.UID)
	b.runner.Set(p)
	waitFor(t, "the pod that lives to be taken over", func() bool {
		ref, ok := b.runner.Container(p.UID, "main")
		return ok && ref.Running
	})
	if got := b.run(p, "echo", "word"); got != "word\n" {
		t.Errorf("a command in the pod that lives says %q", got)
	}
	b.remove(p)
}

// TestYoungShimIsSpared: what was started after the runner is none of the sweep's
// business.
func TestYoungShimIsSpared(t *testing.T) {
	b := newBed(t)
	before := sinceBoot()
	bundle, pid := b.shim("young")
	forget(t, bundle)
	if list := b.runner.strays(before); len(list) > 0 {
		t.Errorf("a young shim is taken for a stray: %v", list)
	}
	if list := b.runner.strays(sinceBoot() + tick); !slices.ContainsFunc(list, func(s strayShim) bool { return s.pid == pid }) {
		t.Errorf("strays: %v, want %d among them", list, pid)
	}
}
