package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// maxNodesAtOnce bounds how many nodes get an image at the same time, so that
// one client's uplink is not cut into slices that time out.
const maxNodesAtOnce = 4

// ImageCmd groups the commands about images on nodes.
type ImageCmd struct {
	Load ImageLoadCmd `cmd:"" help:"Load images from a tar archive."`
	Pull ImagePullCmd `cmd:"" help:"Pull an image by name from its registry."`
	Ls   ImageLsCmd   `cmd:"" aliases:"list" help:"List the images on the nodes."`
	Rm   ImageRmCmd   `cmd:"" aliases:"remove" help:"Remove an image from the nodes."`
}

// Help is the detail of `shoal image --help`.
func (*ImageCmd) Help() string {
	return examples("shoal image load hello.tar", "shoal image pull docker.io/library/nginx:1.29", "shoal image ls")
}

// onNodes are the flags that say which nodes' images are meant.
type onNodes struct {
	Connection
	Node []string `placeholder:"NAME" help:"Only this node; may be repeated. All nodes if empty."`
}

// ImageLoadCmd is `shoal image load`.
type ImageLoadCmd struct {
	onNodes
	File string `arg:"" help:"An OCI or docker archive; - reads it from standard input."`
}

// Help is the detail of `shoal image load --help`.
func (*ImageLoadCmd) Help() string {
	return examples("shoal image load hello.tar", "docker save web:v2 | shoal image load - --node=host1")
}

// Run sends the archive to each node.
func (c *ImageLoadCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	archive, err := openArchive(c.File, streams.In)
	if err != nil {
		return err
	}
	defer archive.Close()
	return c.each(ctx, streams, func(ctx context.Context, node *nodeImages, report func(imageProgress)) error {
		content, size, err := archive.reader()
		if err != nil {
			return err
		}
		return node.load(ctx, content, size, report)
	}, archive.replayable)
}

// ImagePullCmd is `shoal image pull`.
type ImagePullCmd struct {
	onNodes
	Name string `arg:"" help:"The image's name, with registry and tag or digest."`
}

// Help is the detail of `shoal image pull --help`.
func (*ImagePullCmd) Help() string { return examples("shoal image pull docker.io/library/nginx:1.29") }

// Run makes each node pull the image.
func (c *ImagePullCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	return c.each(ctx, streams, func(ctx context.Context, node *nodeImages, report func(imageProgress)) error {
		return node.pull(ctx, c.Name, report)
	}, nil)
}

// ImageRmCmd is `shoal image rm`.
type ImageRmCmd struct {
	onNodes
	Name string `arg:"" help:"The image's name."`
}

// Help is the detail of `shoal image rm --help`.
func (*ImageRmCmd) Help() string { return examples("shoal image rm hello:latest") }

// Run removes the image from the nodes that have it.
func (c *ImageRmCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	nodes, err := c.nodes(ctx, streams)
	if err != nil {
		return err
	}
	removed := 0
	var missing, failed error
	for _, node := range nodes {
		err := node.remove(ctx, c.Name)
		switch {
		case errors.Is(err, errNoImage):
			missing = err
		case err != nil:
			failed = errors.Join(failed, err)
		default:
			removed++
			fmt.Fprintf(streams.Out, "image %q removed from %s\n", c.Name, node.name)
		}
	}
	if failed == nil && removed == 0 {
		return missing
	}
	return failed
}

// ImageLsCmd is `shoal image ls`.
type ImageLsCmd struct {
	onNodes
	Output string `short:"o" enum:"table,json,name" default:"table" help:"Output format: ${enum}."`
}

// Help is the detail of `shoal image ls --help`.
func (*ImageLsCmd) Help() string {
	return examples("shoal image ls", "shoal image ls --node=host1 -o json")
}

// Run lists the images of each node.
func (c *ImageLsCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	nodes, err := c.nodes(ctx, streams)
	if err != nil {
		return err
	}
	rows := []imageRow{} // an empty list in JSON, never null
	for _, node := range nodes {
		images, err := node.list(ctx)
		if err != nil {
			return err
		}
		for _, image := range images {
			rows = append(rows, imageRow{Node: node.name, nodeImage: image})
		}
	}
	sort.SliceStable(rows, func(i, j int) bool { return rows[i].Name < rows[j].Name })
	return printImages(streams.Out, c.Output, rows, time.Now())
}

// imageRow is one image on one node.
type imageRow struct {
	Node string `json:"node"`
	nodeImage
}

func printImages(w io.Writer, format string, rows []imageRow, now time.Time) error {
	switch format {
	case "json":
		return writeJSON(w, map[string]any{"items": rows})
	case "name":
		for _, row := range rows {
			fmt.Fprintln(w, row.Name)
		}
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NAME\tID\tSIZE\tAGE\tNODE")
	for _, row := range rows {
		age := "<unknown>"
		if !row.CreatedAt.IsZero() {
			age = duration.HumanDuration(now.Sub(row.CreatedAt))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", row.Name, shortID(row.ID), humanBytes(row.SizeBytes), age, row.Node)
	}
	return table.Flush()
}

// nodes connects to the chosen nodes, or to all.
func (c *onNodes) nodes(ctx context.Context, streams genericiooptions.IOStreams) ([]*nodeImages, error) {
	config, client, err := c.client(streams)
	if err != nil {
		return nil, err
	}
	names := c.Node
	if len(names) == 0 {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("the cluster has no node yet\nSee `shoal get nodes`; a host registers itself once `shoal start` is up")
	}
	return connectImages(config, names)
}

// each does one thing on every chosen node, several at once, and shows the
// progress. prepare, if any, is told whether there is more than one node.
func (c *onNodes) each(
	ctx context.Context, streams genericiooptions.IOStreams,
	do func(context.Context, *nodeImages, func(imageProgress)) error, prepare func(many bool) error,
) error {
	nodes, err := c.nodes(ctx, streams)
	if err != nil {
		return err
	}
	if prepare != nil {
		if err := prepare(len(nodes) > 1); err != nil {
			return err
		}
	}
	progress := newProgressWriter(streams.Out, len(nodes) > 1)
	var group errgroup.Group
	group.SetLimit(maxNodesAtOnce)
	failures := make([]error, len(nodes))
	for i, node := range nodes {
		group.Go(func() error {
			failures[i] = do(ctx, node, func(line imageProgress) { progress.show(node.name, line) })
			return nil
		})
	}
	_ = group.Wait()
	progress.finish()
	return errors.Join(failures...)
}

// An archive is an image archive that can be sent to several nodes.
type archive struct {
	path  string // empty for a stream
	input io.Reader
	spool *os.File // the stream's copy, when several nodes need it
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

// replayable keeps a copy of a stream if many nodes will read it.
func (a *archive) replayable(many bool) error {
	if a.path != "" || !many {
		return nil
	}
	spool, err := os.CreateTemp("", "shoal-image-*.tar")
	if err != nil {
		return fmt.Errorf("keep the archive for several nodes: %w", err)
	}
	a.spool, a.path = spool, spool.Name()
	if _, err := io.Copy(spool, a.input); err != nil {
		return fmt.Errorf("keep the archive for several nodes: %w", err)
	}
	return nil
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

func (a *archive) Close() error {
	if a.spool == nil {
		return nil
	}
	return errors.Join(a.spool.Close(), os.Remove(a.spool.Name()))
}
