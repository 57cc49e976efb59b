package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// ImageLoadCmd is `shoal image load`.
type ImageLoadCmd struct {
	onNodes
	File string `arg:"" help:"An OCI or docker archive, plain or compressed with gzip or zstd; - reads it from standard input."`
}

// Help is the detail of `shoal image load --help`.
func (*ImageLoadCmd) Help() string {
	return `The archive is sent to one node, and the others get its images from there. A node that is down gets
them from other nodes when a pod needs them.

Where standard output is no terminal, each step is a line of JSON with node, image, status
(sending with bytes and total, loaded, ...) and error.

` + examples("shoal image load hello.tar", "docker save web:v2 | shoal image load - --node=host1")
}

// notReady is what becomes of an image on a node that is down.
const notReady = "not sent: the node is not ready, and gets the image from others when a pod there needs it"

// Run sends the archive to one node, and has the others get its images there.
func (c *ImageLoadCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	archive, err := openArchive(c.File, streams.In)
	if err != nil {
		return err
	}
	nodes, err := c.nodes(ctx, streams)
	if err != nil {
		return err
	}
	first, others := entry(nodes)
	progress := newProgressWriter(streams.Out, len(nodes) > 1)
	defer progress.finish()
	load := func(node *nodeImages) ([]string, error) {
		content, size, err := archive.reader()
		if err != nil {
			return nil, err
		}
		var names []string
		err = node.load(ctx, content, size, func(line imageProgress) {
			if line.Image != "" && line.Status == "loaded" {
				names = append(names, line.Image)
			}
			progress.show(node.name, line)
		})
		return names, err
	}
	names, err := load(first)
	if err != nil {
		return err
	}
	failures := eachNode(others, func(node *nodeImages) error {
		if !node.ready {
			for _, name := range names {
				progress.show(node.name, imageProgress{Image: name, Status: notReady})
			}
			return nil
		}
		err := shareAll(ctx, node, first.name, names, progress)
		if err != nil && archive.path != "" { // the nodes may not reach each other
			if _, again := load(node); again != nil {
				return errors.Join(err, again)
			}
			return nil
		}
		return err
	})
	return errors.Join(failures...)
}

func shareAll(ctx context.Context, node *nodeImages, from string, names []string, progress *progressWriter) error {
	for _, name := range names {
		var once sync.Once // the end of the answer says it again
		err := node.share(ctx, name, from, func(line imageProgress) {
			if isSettled(line) {
				once.Do(func() { progress.show(node.name, line) })
				return
			}
			progress.show(node.name, line)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// entry chooses the node that gets the archive: the first that is ready.
func entry(nodes []*nodeImages) (first *nodeImages, others []*nodeImages) {
	at := 0
	for i, node := range nodes {
		if node.ready {
			at = i
			break
		}
	}
	others = append(others, nodes[:at]...)
	return nodes[at], append(others, nodes[at+1:]...)
}

// An archive is an image archive that is read as a stream.
type archive struct {
	path  string // empty for standard input, which can be read once
	input io.Reader
}

func openArchive(path string, stdin io.Reader) (*archive, error) {
	if path == "-" {
		return &archive{input: stdin}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open image archive: %w", err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("open image archive: %s is a directory, not a tar file", path)
	}
	return &archive{path: path}, nil
}

// reader opens the archive from its start; size is -1 for a stream.
func (a *archive) reader() (io.ReadCloser, int64, error) {
	if a.path == "" {
		return io.NopCloser(a.input), -1, nil
	}
	file, err := os.Open(a.path)
	if err != nil {
		return nil, 0, fmt.Errorf("open image archive: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}
