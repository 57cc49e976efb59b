package harness

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Image is an image of one layer to build: busybox with all its commands, and
// programs of this host beside it.
type Image struct {
	// Tag is the image's name, such as "echo:test".
	Tag string
	// Programs are static executables of the host by their path in the image.
	Programs map[string]string
	// Command is what the image runs by default.
	Command []string
}

// Write builds the image as an archive at path, for `shoal image load`.
func (i Image) Write(ctx context.Context, path string) error {
	layer, err := i.layer(ctx)
	if err != nil {
		return fmt.Errorf("build image %s: %w", i.Tag, err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return fmt.Errorf("build image %s: %w", i.Tag, err)
	}
	image, err = mutate.ConfigFile(image, i.config(image))
	if err != nil {
		return fmt.Errorf("build image %s: %w", i.Tag, err)
	}
	tag, err := name.NewTag(i.Tag)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, image)
}

func (i Image) config(image v1.Image) *v1.ConfigFile {
	config, err := image.ConfigFile()
	if err != nil {
		config = &v1.ConfigFile{} // cannot happen: the image is in memory
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Cmd = i.Command
	config.Config.Env = []string{"PATH=/usr/local/bin:/bin"}
	return config
}

func (i Image) layer(ctx context.Context) (v1.Layer, error) {
	busybox := Command{Argv: []string{"busybox", "--list"}}.Run(ctx)
	if busybox.Err != nil {
		return nil, fmt.Errorf("list busybox's commands: %w; install busybox-static", busybox.Err)
	}
	var data bytes.Buffer
	archive := tar.NewWriter(&data)
	for _, dir := range []string{"bin", "etc", "root", "tmp", "usr", "usr/local", "usr/local/bin"} {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	programs := map[string]string{"bin/busybox": "/bin/busybox"}
	for to, from := range i.Programs {
		programs[strings.TrimPrefix(to, "/")] = from
	}
	for to, from := range programs {
		if err := addProgram(archive, to, from); err != nil {
			return nil, err
		}
	}
	for command := range strings.FieldsSeq(busybox.Stdout) {
		if command == "busybox" {
			continue
		}
		link := &tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + command, Linkname: "busybox", Mode: 0o777}
		if err := archive.WriteHeader(link); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data.Bytes())), nil
	})
}

func addProgram(archive *tar.Writer, to, from string) error {
	program, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: filepath.Clean(to), Mode: 0o755, Size: int64(len(program))}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = archive.Write(program)
	return err
}
