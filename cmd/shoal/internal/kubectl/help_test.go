package kubectl

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// commandsOf returns a verb and all its subcommands.
func commandsOf(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, child := range cmd.Commands() {
		all = append(all, commandsOf(child)...)
	}
	return all
}

// TestHelpOfEveryCommand reads the help of every verb and subcommand as a user
// would: it names shoal, not kubectl, and has an example.
func TestHelpOfEveryCommand(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for i := range Verbs {
		verb := &Verbs[i]
		if verb.Name == "options" {
			continue // its help is the list of flags it prints, nothing else
		}
		streams, _, out, _ := genericiooptions.NewTestIOStreams()
		program := Program{Streams: streams}
		root, err := program.root([]Verb{*verb}, []string{verb.Name})
		if err != nil {
			t.Fatal(err)
		}
		cmd, _, err := root.Find([]string{verb.Name})
		if err != nil || cmd.Name() != verb.Name {
			t.Errorf("verb %s: its command is named %q", verb.Name, cmd.Name())
			continue
		}
		for _, cmd := range commandsOf(cmd) {
			t.Run(strings.ReplaceAll(cmd.CommandPath(), " ", "_"), func(t *testing.T) {
				out.Reset()
				checkHelp(t, cmd, out)
			})
		}
	}
}

func checkHelp(t *testing.T, cmd *cobra.Command, out *bytes.Buffer) {
	t.Helper()
	cmd.SetOut(out)
	if err := cmd.Help(); err != nil {
		t.Fatal(err)
	}
	help := out.String()
	_, example, found := strings.Cut(help, "Examples:\n")
	if !found || !strings.Contains(example, "shoal ") {
		t.Errorf("no example with shoal in the help:\n%s", help)
	}
	for _, line := range strings.Split(help, "\n") {
		if programWord.MatchString(line) {
			t.Errorf("names kubectl: %s", line)
		}
	}
}

// TestTopNeedsNoAddOn: what serves top's figures is part of every peer.
func TestTopNeedsNoAddOn(t *testing.T) {
	for _, cmd := range commandsOf(Find("top").build(nil, genericiooptions.NewTestIOStreamsDiscard())) {
		if text := strings.ToLower(cmd.Short + cmd.Long); strings.Contains(text, "metrics server") || strings.Contains(text, "metrics-server") {
			t.Errorf("%s asks for an add-on: %s", cmd.CommandPath(), cmd.Long)
		}
	}
}

func TestAsShoal(t *testing.T) {
	tests := map[string]string{
		"kubectl get pods":                         "shoal get pods",
		"Use \"kubectl options\" or kubectl.":      "Use \"shoal options\" or shoal.",
		"kubectl kubectl kubectl":                  "shoal shoal shoal",
		"kubectl.kubernetes.io/last-applied":       "kubectl.kubernetes.io/last-applied",
		"see https://x.io/docs/reference/kubectl/": "see https://x.io/docs/reference/kubectl/",
		"field manager kubectl-edit":               "field manager kubectl-edit",
		"$(kubectl get x)\nkubectl y":              "$(shoal get x)\nshoal y",
		"> ~/.kube/kubectl.fish":                   "> ~/.kube/kubectl.fish",
	}
	for text, want := range tests {
		if got := asShoal(text); got != want {
			t.Errorf("asShoal(%q) = %q, want %q", text, got, want)
		}
	}
}
