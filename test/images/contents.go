package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// programDir is where the program goes in the image.
const programDir = "usr/local/bin"

// accounts make whoami and nslookup work as people expect.
var accounts = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"etc/group":  "root:x:0:\nnogroup:x:65534:\n",
}

// contents is what goes into an image.
type contents struct {
	busybox string // path on this host, or empty
	program string // path on this host, or empty
	command []string
}

func (c contents) image() (v1.Image, error) {
	data, err := c.layer()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{
		Cmd: c.command, WorkingDir: "/",
		Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin:/sbin"},
	}
	return mutate.ConfigFile(image, config)
}

// layer is the image's file system as a tar archive.
func (c contents) layer() ([]byte, error) {
	var data bytes.Buffer
	archive := layerWriter{tar.NewWriter(&data)}
	for _, dir := range []string{"bin", "etc", "root", "tmp", "usr", "usr/local", programDir} {
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		if err := archive.add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}, nil); err != nil {
			return nil, err
		}
	}
	for _, file := range []string{"etc/group", "etc/passwd"} {
		if err := archive.file(file, 0o644, []byte(accounts[file])); err != nil {
			return nil, err
		}
	}
	if err := c.programs(archive); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return data.Bytes(), nil
}

func (c contents) programs(archive layerWriter) error {
	if c.program != "" {
		if err := archive.program(path.Join(programDir, filepath.Base(c.program)), c.program); err != nil {
			return err
		}
	}
	if c.busybox == "" {
		return nil
	}
	if err := archive.program("bin/busybox", c.busybox); err != nil {
		return err
	}
	commands, err := exec.Command(c.busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("list the commands of %s: %w", c.busybox, err)
	}
	for command := range strings.FieldsSeq(string(commands)) {
		link := tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + command, Linkname: "busybox", Mode: 0o777}
		if command == "busybox" {
			continue
		}
		if err := archive.add(link, nil); err != nil {
			return err
		}
	}
	return nil
}

// layerWriter writes entries that depend on nothing but their content.
type layerWriter struct{ *tar.Writer }

// program adds a static executable of this host.
func (w layerWriter) program(to, from string) error {
	if err := checkStatic(from); err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return w.file(to, 0o755, content)
}

func (w layerWriter) file(name string, mode int64, content []byte) error {
	header := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}
	return w.add(header, content)
}

func (w layerWriter) add(header tar.Header, content []byte) error {
	header.ModTime = time.Unix(0, 0)
	if err := w.WriteHeader(&header); err != nil {
		return fmt.Errorf("add %s: %w", header.Name, err)
	}
	_, err := w.Write(content)
	return err
}

// checkStatic refuses a program that needs a loader: in an image without
// libraries it would fail with "no such file", which misleads.
func checkStatic(program string) error {
	file, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("read %s: not a Linux program: %w", program, err)
	}
	defer file.Close()
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static: it needs a loader that the image will not have; build it with CGO_ENABLED=0", program)
		}
	}
	return nil
}
