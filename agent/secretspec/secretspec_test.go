//go:build linux && cgo

package secretspec

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeRuntime prints the specification it was given, as JSON and nothing else.
const fakeRuntime = `#!/bin/sh
while [ $# -gt 0 ]; do
	case "$1" in
	--bundle) cat "$2/config.json" ;;
	--process) cat "$2" ;;
	state) echo "$*" ;;
	esac
	shift
done
`

// vault is one on a tmpfs, with a runtime that prints what it is given.
func vault(t *testing.T) (v *Vault, runtime string) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "shoal-secretspec-")
	if err != nil {
		t.Skipf("needs a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if v, err = Open(filepath.Join(dir, "vault"), self); err != nil {
		t.Fatal(err)
	}
	runtime = filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(runtime, []byte(fakeRuntime), 0o755); err != nil {
		t.Fatal(err)
	}
	return v, runtime
}

// document is what tests put secrets into.
type document struct {
	Env  []string `json:"env"`
	Args []string `json:"args"`
	Root string   `json:"root"`
}

func write(t *testing.T, dir, name string, d document) string {
	t.Helper()
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func read(t *testing.T, output []byte) document {
	t.Helper()
	var d document
	if err := json.Unmarshal(output, &d); err != nil {
		t.Fatalf("the runtime got %.200q: %v", output, err)
	}
	return d
}

var awkward = []string{
	"A=plain", "B=", `C="quoted" \back\slash\\`, "D=two\nlines\r\n\ttab", "E=smørrebrød 漢字 \u2028 </script>&",
	"F=" + strings.Repeat("x", 1<<20), "G=\x01\x7f", `H="shoal-secret-0000-1"`,
}

func TestCreateAndExec(t *testing.T) {
	v, runtime := vault(t)
	h := NewHidden()
	d := document{Args: []string{"sh", "-c", h.Hide("echo A")}, Root: h.RootPath()}
	for _, value := range awkward {
		d.Env = append(d.Env, h.Hide(value), "Z=kept")
	}
	link, err := v.Store("c1", runtime, h)
	if err != nil {
		t.Fatal(err)
	}
	bundle := t.TempDir()
	write(t, bundle, "config.json", d)
	check := func(what string, got document) {
		t.Helper()
		if len(got.Env) != 2*len(awkward) || got.Args[2] != "echo A" {
			t.Fatalf("%s: %d variables, args %q", what, len(got.Env), got.Args)
		}
		for i, want := range awkward {
			if got.Env[2*i] != want || got.Env[2*i+1] != "Z=kept" {
				t.Errorf("%s: got %.60q, want %.60q", what, got.Env[2*i], want)
			}
		}
	}
	out, err := exec.Command(link, "--root", "/r", "--log", "/dev/null", "create", "--bundle", bundle, "c1").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := read(t, out)
	check("create", got)
	if got.Root != filepath.Join(bundle, "rootfs") {
		t.Errorf("root file system %q", got.Root)
	}
	d.Root = ""
	process := write(t, t.TempDir(), "process.json", d)
	if out, err = exec.Command(link, "exec", "--process", process, "--detach", "c1").Output(); err != nil {
		t.Fatal(err)
	}
	check("exec", read(t, out))
	if out, err := exec.Command(link, "--root", "/r", "state", "c1").Output(); err != nil || string(out) != "state c1\n" {
		t.Errorf("another command: %q, %v", out, err)
	}
	if err := v.Remove("c1"); err != nil {
		t.Error(err)
	}
	if err := v.Keep(nil); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(v.dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestDamage: what cannot be spliced is refused where the shim looks, without
// a value in the message.
func TestDamage(t *testing.T) {
	const secret = "hunter2"
	for name, change := range map[string]func(t *testing.T, dir string, d *document){
		"unknown token":      func(_ *testing.T, _ string, d *document) { d.Env[0] += "9" },
		"token inside":       func(_ *testing.T, _ string, d *document) { d.Env[0] = "A=" + d.Env[0] },
		"values gone":        func(t *testing.T, dir string, _ *document) { remove(t, filepath.Join(dir, valuesName)) },
		"values cut short":   func(t *testing.T, dir string, _ *document) { truncate(t, filepath.Join(dir, valuesName)) },
		"runtime gone":       func(t *testing.T, dir string, _ *document) { remove(t, filepath.Join(dir, runtimeName)) },
		"specification gone": func(_ *testing.T, _ string, d *document) { d.Env = nil },
	} {
		t.Run(name, func(t *testing.T) {
			v, runtime := vault(t)
			h := NewHidden()
			d := document{Env: []string{h.Hide("A=" + secret)}}
			link, err := v.Store("c1", runtime, h)
			if err != nil {
				t.Fatal(err)
			}
			change(t, filepath.Dir(link), &d)
			bundle, log := t.TempDir(), filepath.Join(t.TempDir(), "log.json")
			if d.Env != nil {
				write(t, bundle, "config.json", d)
			}
			out, err := exec.Command(link, "--log", log, "create", "--bundle", bundle, "c1").CombinedOutput()
			if err == nil {
				t.Fatalf("it ran: %s", out)
			}
			said, err := os.ReadFile(log)
			var line struct{ Level, Msg string }
			if err != nil || json.Unmarshal(said, &line) != nil || line.Level != "error" || line.Msg == "" {
				t.Errorf("the shim is told %q (%v)", said, err)
			}
			if strings.Contains(string(out)+string(said), secret) {
				t.Errorf("the secret is in %q or %q", out, said)
			}
		})
	}
}

func remove(t *testing.T, file string) {
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, file string) {
	if err := os.Truncate(file, 60); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyOnTmpfs(t *testing.T) {
	dir := t.TempDir()
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Type == unix.TMPFS_MAGIC {
		t.Skip("the temporary directory is on a tmpfs")
	}
	if _, err := Open(dir, "/bin/true"); err == nil || !strings.Contains(err.Error(), "tmpfs") {
		t.Errorf("a disk is taken: %v", err)
	}
}

func TestRedact(t *testing.T) {
	h := NewHidden()
	h.Hide("")
	h.Hide(`run "me"`)
	for text, want := range map[string]string{
		"nothing": "nothing", `exec: "run \"me\"": not found`: `exec: "[secret]": not found`, `no run "me" here`: "no [secret] here",
	} {
		if got := h.Redact(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	for value, ok := range map[string]bool{"": true, "a\nb": true, "漢": true, "a\x00b": false, "\xff": false} {
		if err := Check(value); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
}

// TestCost prints what the detour costs each call of the runtime.
func TestCost(t *testing.T) {
	v, _ := vault(t)
	link, err := v.Store("c1", "/bin/true", NewHidden())
	if err != nil {
		t.Fatal(err)
	}
	measure := func(command string) time.Duration {
		best := time.Hour
		for range 20 {
			begin := time.Now()
			if err := exec.Command(command, "state", "c1").Run(); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(begin))
		}
		return best
	}
	direct := measure("/bin/true")
	t.Logf("directly %s, through the link %s", direct, measure(link))
}
