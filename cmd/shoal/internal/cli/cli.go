// Package cli is shoal's command line: the grammar of its commands, the way
// they reach the API, and what they print.
//
// cmd/shoal calls Main with a root grammar, which embeds Commands and the
// daemon's commands. kubectl's verbs are declared here, from the table in
// cmd/shoal/internal/kubectl, and run there with their arguments unparsed. What
// always holds: an error goes to stderr with what to do next and a non-zero
// exit code, stdout carries results only, and nothing here is linked to the
// daemon, so that the client builds for any operating system.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"shoal/cmd/shoal/internal/kubectl"
)

// Commands are shoal's own commands for the client's side; the root grammar
// embeds them.
type Commands struct {
	Run        RunCmd        `cmd:"" group:"basics" help:"Run an image as a deployment."`
	Service    ServiceCmd    `cmd:"" group:"basics" help:"Print the URL of a service and open it in a browser."`
	Image      ImageCmd      `cmd:"" group:"basics" help:"Load, pull, list and remove images on the nodes."`
	Flows      FlowsCmd      `cmd:"" group:"debug" help:"Show connections that open and close, and packets that are dropped."`
	Policy     PolicyCmd     `cmd:"" group:"debug" help:"Explain what network policies allow."`
	Services   ServicesCmd   `cmd:"" group:"debug" help:"Show what hosts' kernels hold of services against what the store says."`
	Status     StatusCmd     `cmd:"" group:"cluster" help:"Show the peers of the cell, alarms, certificates and disk."`
	Slices     SlicesCmd     `cmd:"" group:"cluster" help:"Show which peer leads which part of scheduling and controllers."`
	Encryption EncryptionCmd `cmd:"" group:"cluster" help:"Encrypt between hosts, or stop doing so."`
	Leave      LeaveCmd      `cmd:"" group:"cluster" help:"Take a host out of the cell for good."`
	Node       NodeCmd       `cmd:"" group:"cluster" help:"Remove a dead host from the cell."`
	Backup     BackupCmd     `cmd:"" group:"cluster" help:"Write all of the cell to a file."`
	Token      TokenCmd      `cmd:"" group:"cluster" help:"Make, list and revoke the tokens hosts join with."`
	Help       HelpCmd       `cmd:"" group:"settings" help:"Show the help of a command."`
}

// passthrough is the grammar of one of kubectl's verbs: everything after its
// name is kubectl's to parse.
type passthrough struct {
	Args []string `arg:"" optional:"" help:"What kubectl's command of the same name takes."`

	verb *kubectl.Verb
}

// Run hands the arguments over.
func (p *passthrough) Run(streams genericiooptions.IOStreams) error {
	program := kubectl.Program{Streams: streams}
	return program.Run(p.verb, p.Args)
}

// HelpCmd is `shoal help [command]`.
type HelpCmd struct {
	Command []string `arg:"" optional:"" help:"The command to show."`
}

// Help is the detail of `shoal help --help`.
func (*HelpCmd) Help() string { return examples("shoal help run") }

// Run never runs: Main turns `help X` into `X --help` before parsing.
func (*HelpCmd) Run() error { return nil }

// Main parses args (without the program's name), runs the command and returns
// the exit code. grammar is a pointer to the root struct, version is shoal's.
func Main(grammar any, version string, args []string) int {
	kubectl.Version = version
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	cmdutil.BehaviorOnFatal(func(message string, code int) { exit(streams.ErrOut, message, code) })

	parser, err := newParser(grammar, streams)
	if err != nil {
		return fail(streams.ErrOut, fmt.Errorf("build the command grammar: %w", err))
	}
	if len(args) > 0 && strings.HasPrefix(args[0], "__complete") {
		program := kubectl.Program{Streams: streams, Others: completionsOf(parser.Model)}
		if err := program.Complete(args); err != nil {
			return fail(streams.ErrOut, err)
		}
		return 0
	}
	kctx, err := parser.Parse(normalize(args))
	if err != nil {
		return failParse(streams.ErrOut, parser, err)
	}
	if err := kctx.Run(); err != nil {
		return fail(streams.ErrOut, err)
	}
	return 0
}

func newParser(grammar any, streams genericiooptions.IOStreams) (*kong.Kong, error) {
	options := []kong.Option{
		kong.Name(kubectl.ProgramName),
		kong.Description("shoal runs containers on a fleet of hosts. Every host serves the Kubernetes API."),
		kong.ExplicitGroups(groups),
		kong.Writers(streams.Out, streams.ErrOut),
		kong.Help(printHelp),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: helpWidth}),
		kong.Bind(streams),
		kong.BindToProvider(interruptible),
	}
	for i := range kubectl.Verbs {
		verb := &kubectl.Verbs[i]
		options = append(options, kong.DynamicCommand(
			verb.Name, verb.Help+".", verb.Group, &passthrough{verb: verb}, `cmd:""`, `passthrough:""`))
	}
	return kong.New(grammar, options...)
}

// interruptible gives a command a context that ends at the first interrupt. It
// is made only for commands that ask for one: kubectl's verbs keep the
// system's own reaction to signals.
func interruptible() (context.Context, error) {
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	return ctx, nil
}

// normalize turns the forms kubectl users type into what the grammar knows:
// no arguments and `help X` ask for help, and kubectl's global flags may stand
// before the verb.
func normalize(args []string) []string {
	args = globalsAfterVerb(args)
	switch {
	case len(args) == 0:
		return []string{"--help"}
	case args[0] == "--version":
		return []string{"version", "--client"}
	case args[0] == "help" || args[0] == "-h":
		return append(append([]string{}, args[1:]...), "--help")
	}
	return args
}

// globalsAfterVerb moves leading global flags behind the verb, where both
// grammars take them: `-n web get pods` becomes `get -n web pods`.
func globalsAfterVerb(args []string) []string {
	lead := 0
	for lead < len(args) && strings.HasPrefix(args[lead], "-") && !answersAlone(args[lead]) {
		lead++
		if takesNext(args[lead-1]) {
			lead++
		}
	}
	if lead == 0 || lead >= len(args) {
		return args
	}
	moved := append([]string{args[lead]}, args[:lead]...)
	return append(moved, args[lead+1:]...)
}

// answersAlone reports whether a flag stands for a command of its own.
func answersAlone(flag string) bool { return flag == "-h" || flag == "--help" || flag == "--version" }

// takesNext reports whether a global flag has its value in the next argument.
func takesNext(flag string) bool {
	if strings.Contains(flag, "=") {
		return false
	}
	switch strings.TrimLeft(flag, "-") {
	case "n", "namespace", "s", "server", "kubeconfig", "context", "cluster", "user", "token", "as", "as-group",
		"as-uid", "cache-dir", "certificate-authority", "client-certificate", "client-key", "request-timeout",
		"tls-server-name", "username", "password", "v", "vmodule", "kuberc", "log-flush-frequency":
		return true
	}
	return false
}

// isParseError tells errors in the arguments from errors of the command.
func isParseError(err error) bool {
	var parseError *kong.ParseError
	return errors.As(err, &parseError)
}
