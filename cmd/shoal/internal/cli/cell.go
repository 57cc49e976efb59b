package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	v1 "shoal/api/control/v1"
)

// leaveTimeout is above what the peer gives its pods to stop.
const leaveTimeout = 11 * time.Minute

// LeaveCmd is `shoal leave`.
type LeaveCmd struct {
	onPeer
	Name     string `arg:"" optional:"" help:"The peer that is to leave; this host's if empty."`
	Yes      bool   `short:"y" help:"Do not ask."`
	KeepPods bool   `help:"Leave the host's containers running, without a cell."`
}

// Help is the detail of `shoal leave --help`.
func (*LeaveCmd) Help() string {
	return `Takes a host out of its cell for good: its pods stop and are made anew on other
hosts, its Node object goes, the other peers stop counting it as a member, and
its daemon ends. Its data directory stays; to come back it joins anew. 'shoal
stop' is for a restart, 'shoal node forget' for a host that is dead.

` + examples("sudo shoal leave", "shoal leave host3 --yes")
}

// Run makes a peer leave.
func (c *LeaveCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	if c.Peer == "" {
		c.Peer = c.Name
	}
	if c.Name != "" && c.Peer != c.Name {
		return fmt.Errorf("--peer %s cannot make %s leave: a peer leaves by itself", c.Peer, c.Name)
	}
	peer, status, err := c.connectStatus(ctx, streams)
	if err != nil {
		return err
	}
	if c.Peer == "" && !onThisHost(status) {
		return fmt.Errorf("the kubeconfig names peer %s, which is another host; if that is meant: shoal leave %s", status.Peer, status.Peer)
	}
	if !c.Yes {
		pods := "its pods stop and are made anew on other hosts"
		if c.KeepPods {
			pods = "its containers go on without a cell"
		}
		question := fmt.Sprintf("%s leaves the cell of %d peers: %s, its Node object goes, its daemon ends.", status.Peer, len(status.Peers), pods)
		if err := confirm(streams, question); err != nil {
			return err
		}
	}
	var answer v1.Answer
	request := v1.LeaveRequest{Peer: status.Peer, KeepPods: c.KeepPods}
	if err := peer.ask(ctx, leaveTimeout, http.MethodPost, v1.LeavePath, request, &answer); err != nil {
		return err
	}
	_, err = fmt.Fprintln(streams.Out, answer.Message)
	return err
}

// onThisHost reports whether the peer that answered has an address of this
// machine.
func onThisHost(status *v1.Status) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, p := range status.Peers {
		if p.Name != status.Peer {
			continue
		}
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().String() == p.Address {
				return true
			}
		}
	}
	return false
}

// errNotConfirmed ends a command that was not agreed to.
var errNotConfirmed = errors.New("nothing was done")

// confirm asks a person. Where there is none, --yes has to say it.
func confirm(streams genericiooptions.IOStreams, question string) error {
	in, ok := streams.In.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return fmt.Errorf("%s\nGive --yes to do this without a terminal to ask on: %w", question, errNotConfirmed)
	}
	fmt.Fprintf(streams.ErrOut, "%s\nGo on? [y/N] ", question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return errNotConfirmed
}

// NodeCmd groups the commands about members of the cell.
type NodeCmd struct {
	Forget NodeForgetCmd `cmd:"" help:"Remove a dead host from the cell."`
}

// Help is the detail of `shoal node --help`.
func (*NodeCmd) Help() string { return examples("shoal node forget host3", "shoal get nodes -o wide") }

// NodeForgetCmd is `shoal node forget`.
type NodeForgetCmd struct {
	onPeer
	Name string `arg:"" help:"The peer to forget."`
}

// Help is the detail of `shoal node forget --help`.
func (*NodeForgetCmd) Help() string {
	return `Removes a host that died from the cell: it stops counting as a member, so that
the cell no longer keeps history for it, and its Node object goes, so that its
pods are made anew elsewhere. A host that is alive is refused: make it leave.
Should a forgotten host come back, it joins anew.

` + examples("shoal node forget host3")
}

// Run forgets a peer.
func (c *NodeForgetCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	return c.do(ctx, streams, v1.ForgetPath, v1.ForgetRequest{Name: c.Name})
}

// KeysCmd groups the commands about the cell's keys.
type KeysCmd struct {
	Rotate KeysRotateCmd `cmd:"" help:"Replace the key that gossip is encrypted with."`
}

// Help is the detail of `shoal keys --help`.
func (*KeysCmd) Help() string { return examples("shoal keys rotate") }

// KeysRotateCmd is `shoal keys rotate`.
type KeysRotateCmd struct{ onPeer }

// Help is the detail of `shoal keys rotate --help`.
func (*KeysRotateCmd) Help() string {
	return `Makes a new key for the encryption of gossip and gives it to every peer, then
lets the old one go. Nothing is interrupted. A peer that is away keeps being
understood until it has heard of the new key. Certificates are not touched: they
renew themselves.

` + examples("shoal keys rotate")
}

// Run rotates the key.
func (c *KeysRotateCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	return c.do(ctx, streams, v1.RotateKeysPath, nil)
}

// EncryptionCmd groups the commands about encryption between hosts.
type EncryptionCmd struct {
	On  EncryptionOnCmd  `cmd:"" help:"Encrypt what pods of different hosts say to each other."`
	Off EncryptionOffCmd `cmd:"" help:"Do not encrypt it any more."`

	Status EncryptionStatusCmd `cmd:"" help:"Tell whether hosts encrypt, by what, and with whom they have agreed on keys."`
}

// Help is the detail of `shoal encryption --help`.
func (*EncryptionCmd) Help() string {
	return `Every host of the cell follows at once, and keeps to it. While they change over,
connections between pods of different hosts stand still for some seconds, since
nothing is sent in the clear to a host that encrypts.

` + examples("shoal encryption status", "shoal encryption on")
}

// EncryptionOnCmd is `shoal encryption on`.
type EncryptionOnCmd struct{ onPeer }

// Run switches encryption on.
func (c *EncryptionOnCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	return c.do(ctx, streams, v1.EncryptionPath, v1.EncryptionRequest{On: true})
}

// EncryptionOffCmd is `shoal encryption off`.
type EncryptionOffCmd struct{ onPeer }

// Run switches encryption off.
func (c *EncryptionOffCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	return c.do(ctx, streams, v1.EncryptionPath, v1.EncryptionRequest{})
}

// do asks the peer for a deed and prints what it says of it.
func (c *onPeer) do(ctx context.Context, streams genericiooptions.IOStreams, path string, request any) error {
	peer, err := c.connect(ctx, streams)
	if err != nil {
		return err
	}
	var answer v1.Answer
	if err := peer.ask(ctx, askTimeout, http.MethodPost, path, request, &answer); err != nil {
		return err
	}
	_, err = fmt.Fprintln(streams.Out, answer.Message)
	return err
}
