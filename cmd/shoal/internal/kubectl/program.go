// Package kubectl is kubectl's verbs under shoal's name: the same commands,
// flags, output and exit codes, from kubectl's own packages.
//
// It is called by the grammar in cmd/shoal/internal/cli, which recognises the
// verb and hands over its arguments unparsed. What always holds: a run builds
// the one verb it needs and no other (building all costs more than the request
// to the server), and what the user reads names shoal and not kubectl, while
// what goes to the server (field managers, annotations) stays kubectl's so
// that both programs can be used on one object in turn.
//
// It does not print errors itself except through kubectl's own fatal handler,
// which this package sets, and it does not know shoal's own commands.
package kubectl

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/kuberc"
	utilcomp "k8s.io/kubectl/pkg/util/completion"
	"k8s.io/kubectl/pkg/util/templates"

	// Credential plugins, for kubeconfigs of clusters that need them.
	_ "k8s.io/client-go/plugin/pkg/client/auth"
)

// ProgramName is what the user types.
const ProgramName = "shoal"

// Client-side limits of discovery, the same as kubectl's: the first look at a
// server with many CRDs asks for every group at once.
const (
	discoveryBurst = 300
	discoveryQPS   = 50.0
)

// A Program is one run of one verb.
type Program struct {
	Streams genericiooptions.IOStreams
	// Others are shoal's own commands, known here only to complete their
	// names in the shell.
	Others []*cobra.Command

	flags      *genericclioptions.ConfigFlags
	skipHeader atomic.Bool
}

// NewConfigFlags returns kubectl's connection flags. Once they are parsed, they
// want UseSearchedKubeconfig.
func NewConfigFlags(streams genericiooptions.IOStreams) *genericclioptions.ConfigFlags {
	flags := genericclioptions.NewConfigFlags(true).
		WithDeprecatedPasswordFlag().
		WithDiscoveryBurst(discoveryBurst).
		WithDiscoveryQPS(discoveryQPS).
		WithWarningPrinter(streams)
	return flags.WithWrapConfigFn(func(c *rest.Config) *rest.Config { return refuseNowhere(flags, c) })
}

// Run runs one verb with the arguments that followed it. Errors of the command
// itself end the process with kubectl's message and exit code.
func (p *Program) Run(verb *Verb, args []string) error {
	verbs := []Verb{*verb}
	if kubercInUse(args) {
		// Preferences may name any command; kubectl warns about those it lacks.
		verbs = Verbs
	}
	root, err := p.root(verbs, append([]string{verb.Name}, args...))
	if err != nil {
		return err
	}
	return cli.RunNoErrOutput(root)
}

// Complete answers a shell's request for completions: args are what the
// completion script passed, from its hidden command's name on.
func (p *Program) Complete(args []string) error {
	verbs := Verbs
	if len(args) > 2 {
		if verb := Find(args[1]); verb != nil {
			verbs = []Verb{*verb}
		}
	}
	root, err := p.root(verbs, args)
	if err != nil {
		return err
	}
	root.AddCommand(p.Others...)
	return cli.RunNoErrOutput(root)
}

// root builds the command tree of the given verbs, ready to execute args.
func (p *Program) root(verbs []Verb, args []string) (*cobra.Command, error) {
	p.flags = NewConfigFlags(p.Streams)
	quietUnreachable()

	warnings := rest.NewWarningWriter(p.Streams.ErrOut, rest.WarningWriterOptions{
		Deduplicate: true, Color: printers.AllowsColorOutput(p.Streams.ErrOut)})
	warningsAsErrors := false
	root := &cobra.Command{
		Use:   ProgramName,
		Short: "shoal runs containers on a fleet of hosts",
		Run:   func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			p.skipHeader.Store(cmd.Name() == "proxy")
			rest.SetDefaultWarningHandler(warnings)
			UseSearchedKubeconfig(p.flags)
			return nil
		},
		PersistentPostRunE: func(*cobra.Command, []string) error {
			if n := warnings.WarningCount(); warningsAsErrors && n > 0 {
				return fmt.Errorf("%d %s received", n, plural(n, "warning"))
			}
			return nil
		},
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	p.addHeaders(root)
	root.SetGlobalNormalizationFunc(cliflag.WarnWordSepNormalizeFunc)
	flags := root.PersistentFlags()
	flags.BoolVar(&warningsAsErrors, "warnings-as-errors", false,
		"Treat warnings received from the server as errors and exit with a non-zero exit code")
	preferences := kuberc.NewPreferences()
	if !cmdutil.KubeRC.IsDisabled() {
		preferences.AddFlags(flags)
	}
	p.flags.AddFlags(flags)
	matching := cmdutil.NewMatchVersionFlags(p.flags)
	matching.AddFlags(flags)
	factory := cmdutil.NewFactory(matching)

	for _, verb := range verbs {
		root.AddCommand(verb.build(factory, p.Streams))
	}
	if len(verbs) == 1 && verbs[0].Name != "options" {
		root.AddCommand(newOptions(factory, p.Streams)) // help refers to it
	}
	templates.ActsAsRootCommand(root, []string{"options"})
	speakAsShoal(root)
	utilcomp.SetFactoryForCompletion(factory)
	completeGlobalFlags(root, factory)
	root.SetGlobalNormalizationFunc(cliflag.WordSepNormalizeFunc)

	root.SetArgs(args)
	if len(verbs) == 1 || cmdutil.KubeRC.IsDisabled() {
		return root, nil
	}
	_, err := preferences.Apply(root, p.flags, append([]string{ProgramName}, args...), p.Streams.ErrOut)
	if err != nil {
		return nil, fmt.Errorf("apply kuberc preferences: %w", err)
	}
	return root, nil
}

// addHeaders sends the name of the command along with each request, as kubectl
// does (KEP 859), so that an audit log shows what the user ran.
func (p *Program) addHeaders(root *cobra.Command) {
	headers := &genericclioptions.CommandHeaderRoundTripper{}
	before := root.PersistentPreRunE
	root.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		headers.ParseCommandHeaders(cmd, args)
		return before(cmd, args)
	}
	wrapped := p.flags.WrapConfigFn
	p.flags.WithWrapConfigFn(func(c *rest.Config) *rest.Config {
		c = wrapped(c)
		c.Wrap(func(rt http.RoundTripper) http.RoundTripper {
			return &genericclioptions.CommandHeaderRoundTripper{
				Delegate: rt, Headers: headers.Headers, SkipHeaders: &p.skipHeader}
		})
		return c
	})
}

func completeGlobalFlags(root *cobra.Command, f cmdutil.Factory) {
	list := func(complete func(toComplete string) []string) cobra.CompletionFunc {
		return func(_ *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return complete(toComplete), cobra.ShellCompDirectiveNoFileComp
		}
	}
	cmdutil.CheckErr(root.RegisterFlagCompletionFunc("namespace", list(func(s string) []string {
		return utilcomp.CompGetResource(f, "namespace", s)
	})))
	cmdutil.CheckErr(root.RegisterFlagCompletionFunc("context", list(utilcomp.ListContextsInConfig)))
	cmdutil.CheckErr(root.RegisterFlagCompletionFunc("cluster", list(utilcomp.ListClustersInConfig)))
	cmdutil.CheckErr(root.RegisterFlagCompletionFunc("user", list(utilcomp.ListUsersInConfig)))
}

// kubercInUse reports whether the user keeps kubectl preferences, which may
// change the defaults and names of any command.
func kubercInUse(args []string) bool {
	if cmdutil.KubeRC.IsDisabled() || os.Getenv("KUBERC") == "off" {
		return false
	}
	if os.Getenv("KUBERC") != "" {
		return true
	}
	for _, arg := range args {
		if arg == "--kuberc" || strings.HasPrefix(arg, "--kuberc=") {
			return true
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(home, ".kube", "kuberc"))
	return err == nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
