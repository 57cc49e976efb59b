package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// maxNodesAtOnce bounds how many nodes are asked to do something at the same
// time.
const maxNodesAtOnce = 16

// ImageCmd groups the commands about images on nodes.
type ImageCmd struct {
	Load ImageLoadCmd `cmd:"" help:"Load images from a tar archive."`
	Pull ImagePullCmd `cmd:"" help:"Pull an image by name from its registry."`
	Push ImagePushCmd `cmd:"" help:"Push an image from a node to a registry."`
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
	results := eachNode(nodes, func(node *nodeImages) error { return node.remove(ctx, c.Name) })
	removed := 0
	var missing, failed error
	for i, node := range nodes {
		switch err := results[i]; {
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
	lists := make([][]nodeImage, len(nodes))
	at := map[*nodeImages]int{}
	for i, node := range nodes {
		at[node] = i
	}
	failures := eachNode(nodes, func(node *nodeImages) (err error) {
		lists[at[node]], err = node.list(ctx)
		return err
	})
	rows := []imageRow{} // an empty list in JSON, never null
	for i, node := range nodes {
		for _, image := range lists[i] {
			rows = append(rows, imageRow{Node: node.name, nodeImage: image})
		}
	}
	sort.SliceStable(rows, func(i, j int) bool { return rows[i].Name < rows[j].Name })
	// What can be told is told, whatever became of other nodes.
	return errors.Join(append(failures, printImages(streams.Out, c.Output, rows, time.Now()))...)
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
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	ready := map[string]bool{}
	names := c.Node
	for i := range list.Items {
		node := &list.Items[i]
		ready[node.Name] = isReady(node)
		if len(c.Node) == 0 {
			names = append(names, node.Name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("the cluster has no node yet\nSee `shoal get nodes`; a host registers itself once `shoal start` is up")
	}
	nodes, err := connectImages(config, names)
	for _, node := range nodes {
		node.ready = ready[node.name]
	}
	return nodes, err
}

// eachNode does one thing on every node, several at once, and returns what
// went wrong on each.
func eachNode(nodes []*nodeImages, do func(*nodeImages) error) []error {
	var group errgroup.Group
	group.SetLimit(maxNodesAtOnce)
	failures := make([]error, len(nodes))
	for i, node := range nodes {
		group.Go(func() error {
			failures[i] = do(node)
			return nil
		})
	}
	_ = group.Wait()
	return failures
}
