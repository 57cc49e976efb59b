package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// static builds the smallest static program there is with Go.
func static(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "tiny")
	build := exec.Command("go", "build", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build a static program: %v\n%s", err, out)
	}
	return program
}

func entries(t *testing.T, archive string) (map[string]tar.Header, []string) {
	t.Helper()
	image, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]tar.Header{}
	content := mutate.Extract(image)
	defer content.Close()
	for reader := tar.NewReader(content); ; {
		header, err := reader.Next()
		if err == io.EOF {
			return files, config.Config.Cmd
		}
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimSuffix(header.Name, "/")] = *header
	}
}

func TestImageOfAProgram(t *testing.T) {
	program, out := static(t), filepath.Join(t.TempDir(), "image.tar")
	if err := run([]string{"-out", out, "-name", "tiny:latest", "-bin", program}); err != nil {
		t.Fatal(err)
	}
	files, command := entries(t, out)
	if got := files["usr/local/bin/tiny"].Mode; got != 0o755 {
		t.Errorf("mode of the program is %o, want 755", got)
	}
	if got := strings.Join(command, " "); got != "/usr/local/bin/tiny" {
		t.Errorf("command is %q, want the program", got)
	}
	if existing("/bin/busybox") == "" {
		t.Skip("no /bin/busybox: the rest needs it")
	}
	if got := files["bin/sh"].Linkname; got != "busybox" {
		t.Errorf("bin/sh links to %q, want busybox", got)
	}
}

func TestSameInputGivesSameBytes(t *testing.T) {
	program, dir := static(t), t.TempDir()
	var archives [2][]byte
	for i := range archives {
		out := filepath.Join(dir, "image.tar")
		if err := run([]string{"-out", out, "-name", "tiny", "-bin", program}); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		archives[i] = content
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two builds of the same input differ")
	}
}

func TestRefusals(t *testing.T) {
	out := filepath.Join(t.TempDir(), "image.tar")
	tests := map[string]struct {
		args []string
		want string
	}{
		"no name":        {[]string{"-out", out}, "required"},
		"bad name":       {[]string{"-out", out, "-name", "UPPER CASE"}, "parse image name"},
		"nothing inside": {[]string{"-out", out, "-name", "x", "-busybox", "/none"}, "nothing to put"},
		"not a program":  {[]string{"-out", out, "-name", "x", "-bin", "/etc/passwd"}, "not a Linux program"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := run(test.args)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one with %q", err, test.want)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("an archive was written all the same")
			}
		})
	}
}
