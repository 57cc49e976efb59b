package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"shoal/cmd/shoal/internal/kubectl"
)

// helpWidth is where help text is wrapped on wide terminals.
const helpWidth = 100

var groups = []kong.Group{
	{Key: kubectl.GroupDaemon, Title: "This host:"},
	{Key: kubectl.GroupBasics, Title: "Basics:"},
	{Key: kubectl.GroupWorkloads, Title: "Workloads:"},
	{Key: kubectl.GroupDebug, Title: "Look inside:"},
	{Key: kubectl.GroupObjects, Title: "Objects:"},
	{Key: kubectl.GroupCluster, Title: "Cluster:"},
	{Key: kubectl.GroupSettings, Title: "Settings and help:"},
	{Key: "connection", Title: "Connection:"},

	// Of flags of `shoal start`.
	{Key: "cell", Title: "Cell:"},
	{Key: "images", Title: "Images:"},
	{Key: "pods", Title: "Pods:"},
	{Key: "network", Title: "Network of pods:"},
	{Key: "resources", Title: "What pods may use:"},
	{Key: "shutdown", Title: "Shutdown of the machine:"},
}

// firstSteps is what someone who types only `shoal` should do.
const firstSteps = `Examples:
  # Start this host (as root), then run a web page on it
  shoal start --detach
  shoal run hw --image=hello --port=80
  shoal expose deployment hw --type=NodePort
  shoal service hw
`

// examples formats the examples of a command's help.
func examples(lines ...string) string {
	return "Examples:\n\n    " + strings.Join(lines, "\n    ")
}

// printHelp prints the list of commands in groups for shoal itself, and kong's
// own help for a command.
func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	if ctx.Selected() != nil {
		return kong.DefaultHelpPrinter(options, ctx)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n\nUsage: %s <command> [flags]\n", ctx.Model.Help, ctx.Model.Name)
	width := 0
	for _, node := range ctx.Model.Children {
		width = max(width, len(node.Name))
	}
	for _, group := range groups {
		printGroup(&out, group, ctx.Model.Children, width)
	}
	fmt.Fprintf(&out, "\n%s\nUse \"%s <command> --help\" for the flags and an example of a command.\n",
		firstSteps, ctx.Model.Name)
	_, err := io.WriteString(ctx.Stdout, out.String())
	return err
}

func printGroup(out *strings.Builder, group kong.Group, commands []*kong.Node, width int) {
	title := false
	for _, node := range commands {
		if node.Hidden || node.Group == nil || node.Group.Key != group.Key {
			continue
		}
		if !title {
			fmt.Fprintf(out, "\n%s\n", group.Title)
			title = true
		}
		fmt.Fprintf(out, "  %-*s  %s\n", width, node.Name, strings.TrimSuffix(node.Help, "."))
	}
}

// completionsOf describes shoal's own commands to the shell completion, which
// is kubectl's and knows only cobra's commands.
func completionsOf(model *kong.Application) []*cobra.Command {
	var commands []*cobra.Command
	for _, node := range model.Children {
		if kubectl.Find(node.Name) == nil && !node.Hidden && node.Name != "help" {
			commands = append(commands, completionOf(node))
		}
	}
	return commands
}

func completionOf(node *kong.Node) *cobra.Command {
	cmd := &cobra.Command{Use: node.Name, Short: strings.TrimSuffix(node.Help, "."), Run: func(*cobra.Command, []string) {}}
	for _, flag := range node.Flags {
		if flag.Hidden || flag.Name == "help" {
			continue
		}
		short := ""
		if flag.Short != 0 {
			short = string(flag.Short)
		}
		described := &pflag.Flag{Name: flag.Name, Shorthand: short, Usage: flag.Help, Value: ignored{flag.IsBool()}}
		if flag.IsBool() {
			described.NoOptDefVal = "true"
		}
		cmd.Flags().AddFlag(described)
	}
	for _, child := range node.Children {
		cmd.AddCommand(completionOf(child))
	}
	return cmd
}

// ignored is the value of a flag that exists only to be completed.
type ignored struct{ isBool bool }

func (ignored) String() string   { return "" }
func (ignored) Set(string) error { return nil }
func (i ignored) Type() string {
	if i.isBool {
		return "bool"
	}
	return "string"
}
