package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"

	v1 "shoal/api/control/v1"
	work "shoal/sched/slices"
)

// slicesPage is how many pods are read at once.
const slicesPage = 500

// SlicesCmd is `shoal slices`.
type SlicesCmd struct {
	onPeer

	Each bool `help:"One line for each of the 256 slices, with its epoch."`
}

// Help is the detail of `shoal slices --help`.
func (*SlicesCmd) Help() string {
	return `The cell's work is cut into 256 slices by a hash: pods to be scheduled by their uids,
the loops of the controllers by their names. Each slice is led by the first, by rendezvous,
of the peers that have been alive for 15 seconds. SINCE is when the peer last took
a slice; WAITING counts the pods that have no node yet in its slices (not those held back by
their scheduling gates). Slices whose leader is not alive are marked with a star: others take
them within seconds. The exit code is 1 then.

` + examples(
		"shoal slices",
		"# What another side of a split believes.",
		"shoal slices --peer host3",
		"shoal slices --each")
}

// errLeaderGone is the outcome, in place of an error message that says it again.
var errLeaderGone = errors.New("slices with a star have no leader that is alive; others take them within seconds, or 'shoal status' tells why not")

// Run prints the table.
func (c *SlicesCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	peer, status, err := c.connectStatus(ctx, streams)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(peer.config)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", peer.config.Host, err)
	}
	all, err := listSlices(ctx, client)
	if err != nil {
		return err
	}
	states := map[string]string{}
	for _, p := range status.Peers {
		states[p.Name] = p.State
	}
	if c.Each {
		err = printEachSlice(streams.Out, all, states, status.Time)
	} else {
		err = printLeaders(streams.Out, all, states, status.Time)
	}
	if err == nil && slices.ContainsFunc(all, func(s ledSlice) bool { return states[s.Leader] != v1.Alive }) {
		return errLeaderGone
	}
	return err
}

// ledSlice is a slice as the API tells of it.
type ledSlice struct {
	work.Record
	waiting int
}

// listSlices has an element for every slice, also for those nobody has led yet.
func listSlices(ctx context.Context, client kubernetes.Interface) ([]ledSlice, error) {
	all := make([]ledSlice, work.Count)
	for i := range all {
		all[i].Slice = i
	}
	leases, err := client.CoordinationV1().Leases(work.Namespace).List(ctx, metav1.ListOptions{LabelSelector: work.Label})
	if err != nil {
		return nil, fmt.Errorf("list the records of slices: %w", err)
	}
	for i := range leases.Items {
		if r, ok := work.RecordOf(&leases.Items[i]); ok {
			all[r.Slice].Record = r
		}
	}
	options := metav1.ListOptions{FieldSelector: "spec.nodeName=", Limit: slicesPage}
	for {
		pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("list pods without a node: %w", err)
		}
		for i := range pods.Items {
			if pod := &pods.Items[i]; pod.Status.Phase == corev1.PodPending && len(pod.Spec.SchedulingGates) == 0 {
				all[work.Of(string(pod.UID))].waiting++
			}
		}
		if options.Continue = pods.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

func printLeaders(w io.Writer, all []ledSlice, states map[string]string, now time.Time) error {
	type leader struct {
		name            string
		slices, waiting int
		since           time.Time
	}
	by := map[string]*leader{}
	for name := range states {
		by[name] = &leader{name: name}
	}
	for _, s := range all {
		l := by[s.Leader]
		if l == nil {
			l = &leader{name: s.Leader}
			by[s.Leader] = l
		}
		l.slices++
		l.waiting += s.waiting
		if s.Since.After(l.since) {
			l.since = s.Since
		}
	}
	var rows []*leader
	for _, l := range by {
		rows = append(rows, l)
	}
	slices.SortFunc(rows, func(a, b *leader) int { return cmp.Compare(a.name, b.name) })
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "PEER\tSTATE\tLEADS\tSINCE\tWAITING\t")
	for _, l := range rows {
		since := "-"
		if l.slices > 0 && !l.since.IsZero() {
			since = when(l.since, now)
		}
		gone := l.slices > 0 && states[l.name] != v1.Alive
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%d\t%s\n", orDash(l.name), orDash(states[l.name]), l.slices, since, l.waiting, mark(gone))
	}
	return table.Flush()
}

func printEachSlice(w io.Writer, all []ledSlice, states map[string]string, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "SLICE\tLEADER\tSTATE\tEPOCH\tSINCE\tWAITING\t")
	for _, s := range all {
		since := "-"
		if !s.Since.IsZero() {
			since = when(s.Since, now)
		}
		fmt.Fprintf(table, "%03d\t%s\t%s\t%d\t%s\t%d\t%s\n", s.Slice, orDash(s.Leader), orDash(states[s.Leader]), s.Epoch, since,
			s.waiting, mark(states[s.Leader] != v1.Alive))
	}
	return table.Flush()
}
