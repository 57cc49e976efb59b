package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	v1 "shoal/api/control/v1"
)

// FlowsCmd is `shoal flows`: what the hosts' datapaths do with connections.
type FlowsCmd struct {
	Namespaced
	onHosts

	Follow  bool   `short:"f" help:"Go on with what happens, until interrupted."`
	Pod     string `placeholder:"[NS/]NAME" help:"Only from and to this pod."`
	Dropped bool   `help:"Only what was dropped or refused."`
	Output  string `short:"o" enum:"table,json" default:"table" help:"Output format: ${enum}. json is one document per line."`
}

// Help is the detail of `shoal flows --help`.
func (*FlowsCmd) Help() string {
	return `Shows which connections are opened and closed, and which packets are dropped, with
the reason. Calls of services are shown where they are made: at the caller's host,
or at the host that was called from outside.

Without -f it shows what hosts remember: drops of late, and what was seen while
somebody followed. Connections are looked at only meanwhile. What is alike is
counted in one line (x17), again after a second. A host that tells more than is
read says how many records were lost.

` + examples(
		"# Why does this pod get no answer?",
		"shoal flows -f --pod=web/shop-5f9c",
		"# What was dropped lately, on any host",
		"shoal flows --dropped",
		"# For programs",
		"shoal flows -f -o json | jq .reason")
}

// Run prints the flows of all chosen hosts.
func (c *FlowsCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	query := url.Values{}
	if c.Follow {
		query.Set("follow", "true")
	}
	if c.Dropped {
		query.Set("dropped", "true")
	}
	if c.Namespace != "" {
		query.Set("namespace", c.Namespace)
	}
	if c.Pod != "" {
		pod, err := c.choosePod(ctx, streams)
		if err != nil {
			return err
		}
		query.Set("pod", pod)
	}
	hosts, err := c.connect(ctx, &c.Connection, streams)
	if err != nil {
		return err
	}
	if c.Follow {
		return followFlows(ctx, hosts, query, c.printer(streams.Out, hosts), streams.ErrOut)
	}
	return c.list(ctx, streams, hosts, query)
}

// choosePod completes the name of the pod, which must be there.
func (c *FlowsCmd) choosePod(ctx context.Context, streams genericiooptions.IOStreams) (string, error) {
	namespace, name, ok := strings.Cut(c.Pod, "/")
	if !ok {
		var err error
		if namespace, err = c.namespace(streams); err != nil {
			return "", err
		}
		name = c.Pod
	}
	_, client, err := c.client(streams)
	if err != nil {
		return "", err
	}
	if _, err := client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
		return "", err
	}
	return namespace + "/" + name, nil
}

// list prints what all hosts remember, in order of time.
func (c *FlowsCmd) list(ctx context.Context, streams genericiooptions.IOStreams, hosts []*hostClient, query url.Values) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var mu sync.Mutex
	var all []v1.Flow
	errs := eachHost(hosts, func(h *hostClient) error {
		return h.flows(ctx, query, func(f *v1.Flow) error {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, *f)
			return nil
		})
	})
	slices.SortStableFunc(all, func(a, b v1.Flow) int { return a.Time.Compare(b.Time) })
	show := c.printer(streams.Out, hosts)
	for i := range all {
		if err := show(&all[i]); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// followFlows prints what the hosts tell as it comes. A host that is lost is
// told of; it fails when none is left.
func followFlows(ctx context.Context, hosts []*hostClient, query url.Values, show func(*v1.Flow) error, warn io.Writer) error {
	var mu sync.Mutex // one line at a time
	errs := eachHost(hosts, func(h *hostClient) error {
		err := h.flows(ctx, query, func(f *v1.Flow) error {
			mu.Lock()
			defer mu.Unlock()
			return show(f)
		})
		if ctx.Err() != nil {
			return nil // interrupted
		}
		if err == nil {
			err = fmt.Errorf("follow the flows of %s: its daemon ended", h.name)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(hosts) > 1 {
			fmt.Fprintf(warn, "%v\n", err)
		}
		return err
	})
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(errs...)
}

// eachHost does one thing with every host, all at once, and returns what went
// wrong on each.
func eachHost(hosts []*hostClient, do func(*hostClient) error) []error {
	var group sync.WaitGroup
	errs := make([]error, len(hosts))
	for i, h := range hosts {
		group.Go(func() { errs[i] = do(h) })
	}
	group.Wait()
	return errs
}

// flows reads the host's answer to its end.
func (h *hostClient) flows(ctx context.Context, query url.Values, each func(*v1.Flow) error) error {
	response, err := h.get(ctx, v1.FlowsPath, query)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	for {
		var f v1.Flow
		err := decoder.Decode(&f)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the flows of %s: %w", h.name, err)
		}
		if err := each(&f); err != nil {
			return err
		}
	}
}

// printer prints flows of hosts, below a head for people.
func (c *FlowsCmd) printer(w io.Writer, hosts []*hostClient) func(*v1.Flow) error {
	if c.Output == "json" {
		encoder := json.NewEncoder(w)
		return func(f *v1.Flow) error { return encoder.Encode(f) }
	}
	width := len("HOST")
	for _, h := range hosts {
		width = max(width, len(h.name))
	}
	begun := false
	return func(f *v1.Flow) error {
		if !begun {
			begun = true
			if _, err := fmt.Fprintf(w, "%-12s  %-*s  %-9s  %-6s  CALLER -> CALLED\n", "TIME", width, "HOST", "VERDICT", "PROTO"); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintln(w, flowLine(f, width))
		return err
	}
}

// flowLine is a flow for people, with width letters for the host.
func flowLine(f *v1.Flow, width int) string {
	head := fmt.Sprintf("%s  %-*s  %-9s", f.Time.Local().Format("15:04:05.000"), width, f.Host, f.Verdict)
	if f.Verdict == v1.Lost {
		if f.Reason != "" {
			return head + "  " + f.Reason
		}
		return fmt.Sprintf("%s  %d records: there were too many at once", head, f.Count)
	}
	line := fmt.Sprintf("%s  %-6s  %s -> %s", head, f.Protocol, flowEnd(f.Source), flowEnd(f.Destination))
	if f.Service != "" {
		line += "  service " + f.Service
	}
	if f.Backend != (v1.FlowEnd{}) {
		line += "  by " + flowEnd(f.Backend)
	}
	if f.Reason != "" {
		line += "  " + f.Reason
	}
	if f.Count > 1 {
		line += fmt.Sprintf("  x%d", f.Count)
	}
	return line
}

func flowEnd(e v1.FlowEnd) string {
	name := e.Pod
	if name == "" && e.Node != "" {
		name = "host " + e.Node
	}
	switch {
	case name == "" && e.Address == "":
		return "?"
	case name == "":
		return e.Address
	case e.Address == "":
		return name
	}
	return fmt.Sprintf("%s (%s)", name, e.Address)
}
