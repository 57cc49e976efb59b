package runner

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// wrap puts a script around runc for pods with wrapped. In it, "$runc" "$@" is the
// call, $verb what is asked of runc and $dir a directory of the test's, which is
// returned.
func (b *bed) wrap(t *testing.T, script string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skipf("needs runc: %v", err)
	}
	binary := filepath.Join(dir, "wrapped")
	text := `#!/bin/sh
dir=` + dir + ` runc=` + runc + ` verb=
for arg; do
	case $arg in create|start|exec|delete|kill|state) verb=$arg; break;; esac
done
` + script + `
exec "$runc" "$@"
`
	if err := os.WriteFile(binary, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	b.stop()
	b.runtimes = []string{"wrapped=" + binary}
	b.start()
	b.objects.handlers = map[string]string{"wrapped": "wrapped"}
	return dir
}

// wrapped has the pod run by the script of wrap.
func wrapped(p *v1.Pod) {
	name := "wrapped"
	p.Spec.RuntimeClassName = &name
}

// there reports whether a file of the name is in the directory.
func there(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// put makes a file.
func put(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// called counts processes with these arguments.
func called(args ...string) int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if string(text) == strings.Join(args, "\x00")+"\x00" {
			n++
		}
	}
	return n
}
