//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// Cmd is `shoal lab`.
type Cmd struct {
	Up         UpCmd         `cmd:"" help:"Make a lab: a bridge and peers on it."`
	Ls         LsCmd         `cmd:"" help:"List the peers and how they are."`
	Kubeconfig KubeconfigCmd `cmd:"" help:"Print the kubeconfig of a peer."`
	Exec       ExecCmd       `cmd:"" help:"Run a command on a peer's host."`
	Kill       KillCmd       `cmd:"" help:"End a peer as a power cut does."`
	Start      StartCmd      `cmd:"" help:"Bring a killed peer back with its disk."`
	Cut        CutCmd        `cmd:"" help:"Separate peers from all others."`
	Slow       SlowCmd       `cmd:"" help:"Delay and lose what a peer sends and receives."`
	Heal       HealCmd       `cmd:"" help:"Undo all cuts and slow links."`
	Down       DownCmd       `cmd:"" help:"Take the lab away, with all it ran and wrote."`
	Relay      RelayCmd      `cmd:"" hidden:"" help:"Carry the frames of a slow link (run by slow)."`
}

// Help is the detail of `shoal lab --help`.
func (*Cmd) Help() string {
	return `A lab is several peers on this machine, each in a network of its own, as if it were a host.
This machine reaches every peer's API and node ports at the peer's address.

Examples:
  # Five peers, and kubectl against the second
  sudo shoal lab up --nodes 5
  sudo shoal lab kubeconfig 2 > lab-2.kubeconfig
  kubectl --kubeconfig lab-2.kubeconfig get nodes

  # Split them two against three, kill one, and make it whole again
  sudo shoal lab cut 1,2
  sudo shoal lab kill 5
  sudo shoal lab heal
  sudo shoal lab start 5

  # Leave nothing
  sudo shoal lab down`
}

// Place says which lab.
type Place struct {
	Dir string `default:"/var/lib/shoal-lab" placeholder:"DIR" help:"The lab's directory; another one is another lab (default ${default})."`
}

// UpCmd is `shoal lab up`.
type UpCmd struct {
	Place
	Nodes    int          `default:"3" placeholder:"N" help:"How many peers (default ${default})."`
	Memory   string       `default:"400Mi" placeholder:"SIZE" help:"Memory of each peer with all it runs (default ${default})."`
	Subnet   netip.Prefix `placeholder:"CIDR" help:"A free /24 for the peers' addresses (default: one of 198.18.0.0/15)."`
	Separate bool         `help:"Make every peer a cell of its own and join none."`

	StartFlag []string `sep:"none" placeholder:"FLAG" help:"A flag of shoal start for every peer, each time it starts; may be repeated."`
}

// Help is the detail of `shoal lab up --help`.
func (*UpCmd) Help() string {
	return `The first peer starts a cell and the others join it. The command returns once all are ready.

Examples:
  sudo shoal lab up --nodes 5

  # A second lab beside the first, with more room for pods
  sudo shoal lab up --dir /var/lib/shoal-lab-2 --memory 1Gi

  # Peers whose daemons keep some of the host for themselves
  sudo shoal lab up --start-flag=--reserved=cpu=100m --start-flag=--pod-max-pids=500`
}

// Run makes the lab.
func (c *UpCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	memory, err := resource.ParseQuantity(c.Memory)
	if err != nil {
		return fmt.Errorf("--memory %q: want a size such as 400Mi: %w", c.Memory, err)
	}
	if c.Nodes == 0 || memory.IsZero() { // which would mean the default below
		return errors.New("--nodes and --memory cannot be 0")
	}
	_, err = Up(ctx, Options{Dir: c.Dir, Nodes: c.Nodes, Memory: memory.Value(), Subnet: c.Subnet, Separate: c.Separate, StartFlags: c.StartFlag, Progress: streams.Out})
	return err
}

// LsCmd is `shoal lab ls`.
type LsCmd struct {
	Place
	Output string `short:"o" enum:"table,json" default:"table" help:"table or json."`
}

// Help is the detail of `shoal lab ls --help`.
func (*LsCmd) Help() string { return "Examples:\n  sudo shoal lab ls\n  sudo shoal lab ls -o json" }

// Run lists the peers.
func (c *LsCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	l, err := Open(c.Dir)
	if err != nil {
		return err
	}
	peers, err := l.Peers(ctx)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		encoder := json.NewEncoder(streams.Out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(peers)
	}
	table := tabwriter.NewWriter(streams.Out, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(table, "N\tNAME\tADDRESS\tAPI\tPID\tMEMORY\tCUT FROM\tSLOW")
	for _, p := range peers {
		slow := "-"
		if p.Slow != nil {
			slow = p.Slow.String()
		}
		_, _ = fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%d\t%d MiB\t%s\t%s\n",
			p.Number, p.Name, p.Address, p.API, p.Pid, p.MemoryBytes>>20, numbers(p.CutFrom), slow)
	}
	return table.Flush()
}

func numbers(list []int) string {
	if len(list) == 0 {
		return "-"
	}
	slices.Sort(list)
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ",")
}

// parsePeers reads a list such as 1,2.
func parsePeers(list string) ([]int, error) {
	var peers []int
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil {
			return nil, fmt.Errorf("%q is not a list of peers; want numbers such as 1,2", list)
		}
		peers = append(peers, n)
	}
	return peers, nil
}

// One names a peer.
type One struct {
	Place
	Peer int `arg:"" placeholder:"N" help:"The peer's number."`
}

// KubeconfigCmd is `shoal lab kubeconfig`.
type KubeconfigCmd struct{ One }

// Help is the detail of `shoal lab kubeconfig --help`.
func (*KubeconfigCmd) Help() string {
	return `Examples:
  sudo shoal lab kubeconfig 2 > lab-2.kubeconfig
  kubectl --kubeconfig lab-2.kubeconfig get nodes`
}

// Run prints the kubeconfig.
func (c *KubeconfigCmd) Run(streams genericiooptions.IOStreams) error {
	l, err := Open(c.Dir)
	if err != nil {
		return err
	}
	data, err := l.Kubeconfig(c.Peer)
	if err != nil {
		return err
	}
	_, err = streams.Out.Write(data)
	return err
}

// ExecCmd is `shoal lab exec`.
type ExecCmd struct {
	One
	Command []string `arg:"" passthrough:"" help:"The command and its arguments, after --."`
}

// Help is the detail of `shoal lab exec --help`.
func (*ExecCmd) Help() string {
	return `The command runs as root in the host's namespaces and control group. KUBECONFIG is the
peer's, and PATH has the shoal that the peer runs.

Examples:
  sudo shoal lab exec 1 -- shoal get pods
  sudo shoal lab exec 2 -- ip addr
  sudo shoal lab exec 3 -- bash`
}

// Run runs the command and ends this program with its exit code.
func (c *ExecCmd) Run(streams genericiooptions.IOStreams) error {
	l, err := Open(c.Dir)
	if err != nil {
		return err
	}
	argv := c.Command
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	// No context: an interrupt at the terminal reaches the command itself.
	cmd, err := l.Exec(context.Background(), c.Peer, argv, func(cmd *exec.Cmd) {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = streams.In, streams.Out, streams.ErrOut
	})
	if err != nil {
		return err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(max(exit.ExitCode(), 1))
	}
	return err
}

// KillCmd is `shoal lab kill`.
type KillCmd struct{ One }

// Help is the detail of `shoal lab kill --help`.
func (*KillCmd) Help() string {
	return `The daemon, containerd and every container end by SIGKILL, the pods' network and the host's
link are gone. The disk stays for ` + "`shoal lab start`" + `.

Examples:
  sudo shoal lab kill 3`
}

// Run kills the peer.
func (c *KillCmd) Run(ctx context.Context) error {
	l, err := Open(c.Dir)
	if err != nil {
		return err
	}
	return l.Kill(ctx, c.Peer)
}

// StartCmd is `shoal lab start`.
type StartCmd struct {
	One
	StartFlag []string `sep:"none" placeholder:"FLAG" help:"A flag of shoal start for this start, after those that the lab was made with; may be repeated."`
}

// Help is the detail of `shoal lab start --help`.
func (*StartCmd) Help() string {
	return `Like a host's reboot: /run is empty, what ran is dead, the disk is as it was. On a host that
runs and whose daemon was stopped it starts the daemon.

Examples:
  sudo shoal lab start 3

  # A peer that left its cell, or was forgotten, joins again
  sudo shoal lab exec 1 -- shoal token create
  sudo shoal lab start 3 --start-flag=--join=ADDRESS:7946 --start-flag=--token=TOKEN`
}

// Run starts the peer.
func (c *StartCmd) Run(ctx context.Context) error {
	l, err := Open(c.Dir)
	if err != nil {
		return err
	}
	return l.Start(ctx, c.Peer, c.StartFlag...)
}

// CutCmd is `shoal lab cut`.
type CutCmd struct {
	Place
	Peers string `arg:"" optional:"" placeholder:"N,..." help:"The peers to separate from all others."`
	From  string `placeholder:"N,..." help:"With --to: drop only what these peers send."`
	To    string `placeholder:"N,..." help:"With --from: drop it only on its way to these peers."`
}

// Help is the detail of `shoal lab cut --help`.
func (*CutCmd) Help() string {
	return `Peers on the same side go on reaching each other, and this machine reaches all. Cuts add up
until ` + "`shoal lab heal`" + `.

Examples:
  # 1 and 2 on one side, all others on the other
  sudo shoal lab cut 1,2

  # 1 does not reach 2, but 2 reaches 1
  sudo shoal lab cut --from 1 --to 2`
}

// Run makes the cut.
func (c *CutCmd) Run(ctx context.Context) error {
	if (c.Peers == "") == (c.From == "" && c.To == "") || (c.From == "") != (c.To == "") {
		return errors.New("cut: give the peers to separate, such as 1,2, or both --from and --to")
	}
	l, err := Open(c.Dir)
	if err != nil {
		return err
	}
	if c.Peers != "" {
		peers, err := parsePeers(c.Peers)
		if err != nil {
			return err
		}
		return l.Cut(ctx, peers...)
	}
	from, err := parsePeers(c.From)
	if err != nil {
		return err
	}
	to, err := parsePeers(c.To)
	if err != nil {
		return err
	}
	return l.CutOneWay(ctx, from, to)
}

// Link is how bad a link shall be.
type Link struct {
	Delay time.Duration `placeholder:"DURATION" help:"How much later everything arrives, each way; a round trip takes twice as long."`
	Loss  string        `placeholder:"PERCENT" help:"How much of it never arrives, each way; for example 5%."`
}

func (l Link) shape() (Shape, error) {
	shape := Shape{Delay: l.Delay}
	if l.Loss == "" {
		return shape, nil
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(l.Loss, "%"), 64)
	if err != nil {
		return shape, fmt.Errorf("--loss %q: want a percentage such as 5%%", l.Loss)
	}
	shape.LossPercent = percent
	return shape, nil
}

// SlowCmd is `shoal lab slow`.
type SlowCmd struct {
	One
	Link
}

// Help is the detail of `shoal lab slow --help`.
func (*SlowCmd) Help() string {
	return `It holds for all the peer exchanges, with other peers and with this machine, until the next
slow of the same peer or ` + "`shoal lab heal`" + `.

Examples:
  sudo shoal lab slow 2 --delay 50ms --loss 5%`
}

// Run makes the link slow.
func (c *SlowCmd) Run(ctx context.Context) error {
	shape, err := c.shape()
	if err != nil {
		return err
	}
	l, err := Open(c.Dir)
	if err != nil {
		return err
	}
	return l.Slow(ctx, c.Peer, shape)
}

// HealCmd is `shoal lab heal`.
type HealCmd struct{ Place }

// Help is the detail of `shoal lab heal --help`.
func (*HealCmd) Help() string { return "Examples:\n  sudo shoal lab heal" }

// Run heals the lab.
func (c *HealCmd) Run(ctx context.Context) error {
	l, err := Open(c.Dir)
	if err != nil {
		return err
	}
	return l.Heal(ctx)
}

// DownCmd is `shoal lab down`.
type DownCmd struct{ Place }

// Help is the detail of `shoal lab down --help`.
func (*DownCmd) Help() string {
	return "It works on a lab in any state, and on none.\n\nExamples:\n  sudo shoal lab down"
}

// Run takes the lab down.
func (c *DownCmd) Run(ctx context.Context) error { return Down(ctx, c.Dir) }

// RelayCmd is `shoal lab relay`, which slow starts.
type RelayCmd struct {
	Link
	Port   string `arg:"" help:"The link's end on this machine."`
	Tap    string `arg:"" help:"The device to make in its place."`
	Bridge string `arg:"" help:"The lab's bridge."`
}

// Run carries frames until it is ended.
func (c *RelayCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	shape, err := c.shape()
	if err != nil {
		return err
	}
	return relay(ctx, c.Port, c.Tap, c.Bridge, shape, streams.Out)
}
