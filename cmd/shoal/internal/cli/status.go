package cli

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"

	v1 "shoal/api/control/v1"
)

// StatusCmd is `shoal status`.
type StatusCmd struct {
	onPeer
	Output string `short:"o" enum:"table,json,yaml" default:"table" help:"Output format: ${enum}."`
}

// Help is the detail of `shoal status --help`.
func (*StatusCmd) Help() string {
	return `Shows the cell as one peer sees it: its peers and how far each is behind, what
is wrong and the command that fixes it, until when certificates are good, and
the disk. The exit code is 0 also when there are alarms; programs read them from
-o json.

LAG is how many changes a peer has still to get; RTT the round trip to it; CLOCK
how far its clock is ahead of the answering peer's.

` + examples("shoal status", "shoal status --peer=host2", "shoal status -o json | jq '.alarms[].code'")
}

// Run asks a peer and prints its answer.
func (c *StatusCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	_, status, err := c.connectStatus(ctx, streams)
	if err != nil {
		return err
	}
	switch c.Output {
	case "json":
		return writeJSON(streams.Out, status)
	case "yaml":
		out, err := yaml.Marshal(status)
		if err != nil {
			return err
		}
		_, err = streams.Out.Write(out)
		return err
	}
	return printStatus(streams.Out, status)
}

// printStatus is the table for people. Ages are by the answering peer's clock.
func printStatus(w io.Writer, s *v1.Status) error {
	fmt.Fprintf(w, "Cell %s, as %s sees it\n\n", s.Cell, s.Peer)
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "PEER\tSTATE\tSINCE\tADDRESS\tVERSION\tLAG\tRTT\tCLOCK\tEXCHANGED\tSENT\tRECEIVED")
	for i := range s.Peers {
		printPeer(table, &s.Peers[i], s)
	}
	if len(s.Paths) > 0 {
		fmt.Fprintln(table, "\nHOST\tPATH\tVIA\tMTU")
		for _, p := range s.Paths {
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\n", p.Host, p.Path, orDash(p.Via), p.MTU)
		}
	}
	if s.Encryption == v1.EncryptionWireGuard {
		fmt.Fprintln(table, "\nWhat pods of different hosts say to each other is encrypted.")
	}
	fmt.Fprintln(table, "\nCERTIFICATE\tEXPIRES\tRENEWS ITSELF")
	for _, c := range s.Certificates {
		renews := "never"
		if !c.Renews.IsZero() {
			renews = when(c.Renews, s.Time)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", c.Name, when(c.Expires, s.Time), renews)
	}
	fmt.Fprintln(table, "\nDISK\tFREE\tOF\tRECORDS\tTOMBSTONES\tSTORE\tWATCHES")
	fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%s\t%d\n", s.Disk.Path, humanBytes(int64(s.Disk.FreeBytes)), humanBytes(int64(s.Disk.TotalBytes)),
		s.Store.Records, s.Store.Tombstones, humanBytes(s.Store.DiskBytes), s.Store.Watchers)
	if err := table.Flush(); err != nil {
		return err
	}
	return printAlarms(w, s)
}

func printPeer(table io.Writer, p *v1.Peer, s *v1.Status) {
	lag, rtt, clock, exchanged, since, sent, received := "-", "-", "-", "-", "-", "-", "-"
	if p.LagDeltas != nil {
		lag = fmt.Sprint(*p.LagDeltas)
	}
	if p.RTTMillis != nil {
		rtt = fmt.Sprintf("%.1fms", *p.RTTMillis)
	}
	if p.SkewMillis != nil {
		clock = fmt.Sprintf("%+.0fms", *p.SkewMillis)
	}
	if !p.LastExchange.IsZero() {
		exchanged = when(p.LastExchange, s.Time)
	}
	if !p.Since.IsZero() {
		since = when(p.Since, s.Time)
	}
	if p.SentBytes+p.ReceivedBytes > 0 {
		sent, received = humanBytes(int64(p.SentBytes)), humanBytes(int64(p.ReceivedBytes))
	}
	fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
		p.Name, p.State, since, p.Address, orDash(p.Version), lag, rtt, clock, exchanged, sent, received)
}

func printAlarms(w io.Writer, s *v1.Status) error {
	if len(s.Alarms) == 0 {
		_, err := fmt.Fprintln(w, "\nNo alarms.")
		return err
	}
	critical := 0
	for _, a := range s.Alarms {
		if a.Severity == v1.Critical {
			critical++
		}
	}
	noun := "alarms"
	if len(s.Alarms) == 1 {
		noun = "alarm"
	}
	fmt.Fprintf(w, "\n%d %s, %d critical:\n", len(s.Alarms), noun, critical)
	for _, a := range s.Alarms {
		since := ""
		if !a.Since.IsZero() {
			since = ", since " + when(a.Since, s.Time)
		}
		fmt.Fprintf(w, "  %s (%s%s): %s\n", a.Code, a.Severity, since, a.Title)
		if a.Fix != "" {
			fmt.Fprintf(w, "      fix: %s\n", a.Fix)
		}
	}
	return nil
}

// when says how far t is from now, either way.
func when(t, now time.Time) string {
	if t.After(now) {
		return "in " + duration.HumanDuration(t.Sub(now))
	}
	return duration.HumanDuration(now.Sub(t)) + " ago"
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
