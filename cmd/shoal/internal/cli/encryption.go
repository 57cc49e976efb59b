package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"text/tabwriter"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	v1 "shoal/api/control/v1"
)

// EncryptionStatusCmd is `shoal encryption status`.
type EncryptionStatusCmd struct{ onPeer }

// Help is the detail of `shoal encryption status --help`.
func (*EncryptionStatusCmd) Help() string {
	return `Asks every peer that is alive. ENCRYPTS tells what encrypts there, the kernel or, where
that has no WireGuard, wireguard-go in the daemon. AGREED counts the hosts with which it
has agreed on keys: those do so that have something to say to each other. A host that does
not do what the cell chose is marked with a star, and the exit code is 1.

` + examples("shoal encryption status")
}

// errNotAsChosen is the outcome, in place of an error message that says it again.
var errNotAsChosen = errors.New("a host with a star does not do what the cell chose; it follows within seconds, or its log says why not")

// Run asks all peers and prints their answers.
func (c *EncryptionStatusCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	peer, status, err := c.connectStatus(ctx, streams)
	if err != nil {
		return err
	}
	answers, errs := peer.statusOfAll(ctx, status)
	fmt.Fprintf(streams.Out, "The cell chose: %s\n\n", orDash(status.Encryption))
	asChosen, err := printEncryption(streams.Out, status, answers)
	if !asChosen {
		errs = append(errs, errNotAsChosen)
	}
	return errors.Join(append(errs, err)...)
}

// statusOfAll asks those of the peers that are alive; nil: it is not, or does not answer.
func (p *peerClient) statusOfAll(ctx context.Context, seen *v1.Status) ([]*v1.Status, []error) {
	answers, errs := make([]*v1.Status, len(seen.Peers)), make([]error, len(seen.Peers))
	var group sync.WaitGroup
	for i := range seen.Peers {
		other := &seen.Peers[i]
		if other.Name == seen.Peer {
			answers[i] = seen
			continue
		}
		if other.State != v1.Alive || other.API == "" {
			continue
		}
		group.Go(func() {
			client, err := newPeerClient(configAt(p.config, other.API))
			if err == nil {
				answers[i], err = client.status(ctx)
			}
			if err != nil {
				errs[i] = fmt.Errorf("ask %s: %w", other.Name, err)
			}
		})
	}
	group.Wait()
	return answers, errs
}

func printEncryption(w io.Writer, seen *v1.Status, answers []*v1.Status) (asChosen bool, err error) {
	asChosen = true
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "HOST\tSTATE\tENCRYPTS\tAGREED\tLAST\t")
	for i, s := range answers {
		p := &seen.Peers[i]
		if s == nil {
			fmt.Fprintf(table, "%s\t%s\t?\t-\t-\t\n", p.Name, p.State)
			continue
		}
		by, agreed, last := "no", 0, "-"
		if s.EncryptedBy != "" {
			by = "by " + s.EncryptedBy
		}
		var latest v1.Path
		for _, path := range s.Paths {
			if path.LastHandshake.IsZero() {
				continue
			}
			agreed++
			if path.LastHandshake.After(latest.LastHandshake) {
				latest = path
			}
		}
		if agreed > 0 {
			last = when(latest.LastHandshake, s.Time)
		}
		differs := (s.EncryptedBy != "") != (seen.Encryption == v1.EncryptionWireGuard)
		asChosen = asChosen && !differs
		fmt.Fprintf(table, "%s\t%s\t%s\t%d of %d\t%s\t%s\n", p.Name, p.State, by, agreed, len(s.Paths), last, mark(differs))
	}
	return asChosen, table.Flush()
}
