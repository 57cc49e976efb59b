//go:build linux && cgo

package logwriter

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// writer is a log writer started as the shim starts one.
type writer struct {
	cmd            *exec.Cmd
	stdout, stderr *os.File
}

func start(t *testing.T, path string, limits Limits) *writer {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	readyR, readyW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, Arg, fmt.Sprintf("%d:%d:%s", limits.MaxBytes, limits.MaxFiles, path))
	cmd.ExtraFiles = []*os.File{outR, errR, readyW}
	cmd.Env = []string{}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{outR, errR, readyW} {
		f.Close()
	}
	// The writer closes its end when it is ready.
	if n, _ := readyR.Read(make([]byte, 1)); n != 0 {
		t.Errorf("read %d bytes from the ready pipe", n)
	}
	readyR.Close()
	w := &writer{cmd, outW, errW}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return w
}

// end closes the container's side and waits for the writer.
func (w *writer) end(t *testing.T) {
	t.Helper()
	w.stdout.Close()
	w.stderr.Close()
	if err := w.cmd.Wait(); err != nil {
		t.Errorf("log writer: %v", err)
	}
}

var lineForm = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) (.*)$`)

func lines(t *testing.T, path string) [][]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]string
	for _, l := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		m := lineForm.FindStringSubmatch(l)
		if m == nil {
			t.Fatalf("line %.80q has the wrong form", l)
		}
		out = append(out, m[1:])
	}
	return out
}

func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	w := start(t, path, DefaultLimits)
	long := strings.Repeat("x", MaxLineBytes+10)
	fmt.Fprintf(w.stdout, "one\n\n%s\n", long)
	fmt.Fprint(w.stderr, "no end")
	w.end(t)
	var out, errs []string
	for _, l := range lines(t, path) {
		text := l[1] + ":" + l[2]
		if l[0] == "stdout" {
			out = append(out, text)
		} else {
			errs = append(errs, text)
		}
	}
	want := []string{"F:one", "F:", "P:" + long[:MaxLineBytes], "F:" + long[MaxLineBytes:]}
	if strings.Join(out, "|") != strings.Join(want, "|") {
		t.Errorf("stdout has %d lines: %.60q", len(out), out)
	}
	if len(errs) != 1 || errs[0] != "F:no end" {
		t.Errorf("stderr: %q", errs)
	}
}

// TestTermDrains ends the writer as the shim does, while the container's end
// of the pipe is still open in another process.
func TestTermDrains(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	w := start(t, path, DefaultLimits)
	for i := range 1000 {
		fmt.Fprintf(w.stdout, "line %d\n", i)
	}
	fmt.Fprint(w.stdout, "rest")
	if Ended(path) {
		t.Error("the log has ended while its writer runs")
	}
	if err := w.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Wait(); err != nil {
		t.Errorf("log writer: %v", err)
	}
	if !Ended(path) {
		t.Error("the log has not ended with its writer")
	}
	got := lines(t, path)
	if len(got) != 1001 || got[1000][2] != "rest" {
		t.Errorf("%d lines, last %q", len(got), got[len(got)-1])
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	other := filepath.Join(dir, "10.log")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := start(t, path, Limits{MaxBytes: 1000, MaxFiles: 3})
	for i := range 500 {
		fmt.Fprintf(w.stdout, "line %d\n", i)
	}
	w.end(t)
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 3 {
		t.Fatalf("files %q (%v), want 3", files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > 1100 {
			t.Errorf("%s has %d bytes (%v)", f, info.Size(), err)
		}
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("another attempt's log was removed: %v", err)
	}
	last := lines(t, files[len(files)-1])
	if first := lines(t, path); len(first) == 0 || len(last) == 0 {
		t.Error("a file has no lines")
	}
}

// TestUnwritable: a log that cannot be stored never blocks the container.
func TestUnwritable(t *testing.T) {
	w := start(t, "/proc/no/such/0.log", DefaultLimits)
	block := []byte(strings.Repeat("y", 1<<12) + "\n")
	for range 100 { // far more than a pipe holds
		if _, err := w.stdout.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	w.end(t)
}

// TestSmall: the writer's own memory, which every container pays.
func TestSmall(t *testing.T) {
	w := start(t, filepath.Join(t.TempDir(), "0.log"), DefaultLimits)
	fmt.Fprintln(w.stdout, "x")
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var anonKB int
	for _, l := range strings.Split(string(data), "\n") {
		if text, ok := strings.CutPrefix(l, "RssAnon:"); ok {
			_, _ = fmt.Sscan(text, &anonKB)
		}
	}
	w.end(t)
	if anonKB == 0 || anonKB > 1024 {
		t.Errorf("a log writer has %d KB of its own, want at most 1024", anonKB)
	}
	t.Logf("a log writer has %d KB of its own", anonKB)
}

func TestURI(t *testing.T) {
	got, err := URI("/usr/bin/shoal", "/var/log/pods/a b/0.log", Limits{MaxBytes: 5, MaxFiles: 2}, 0)
	if err != nil || got != "binary:///usr/bin/shoal?shoal-log-writer=5%3A2%3A%2Fvar%2Flog%2Fpods%2Fa+b%2F0.log" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := URI("shoal", "/x", DefaultLimits, 0); err == nil {
		t.Error("a relative binary is accepted")
	}
}

// TestLineWithoutEnd: output without line ends is bounded too.
func TestLineWithoutEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	w := start(t, path, Limits{MaxBytes: 64 << 10, MaxFiles: 3})
	block := strings.Repeat("z", 1<<16)
	for range 64 {
		fmt.Fprint(w.stdout, block)
	}
	w.end(t)
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 3 {
		t.Fatalf("files %q (%v), want 3", files, err)
	}
	const most = 64<<10 + MaxLineBytes + 100 // the part that reaches the limit is kept whole
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > most {
			t.Errorf("%s has %d bytes (%v)", f, info.Size(), err)
		}
	}
}
