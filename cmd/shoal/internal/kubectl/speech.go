package kubectl

import (
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// programWord matches kubectl as the name of a program: not inside a path, a
// domain, a URL or a longer name such as kubectl-edit.
var programWord = regexp.MustCompile(`(^|[^\w./-])kubectl($|[^\w./-]|[.]\s|[.]$)`)

// asShoal makes help text name the program the user runs.
func asShoal(text string) string {
	// Twice, for two words that share the blank between them.
	for range 2 {
		text = programWord.ReplaceAllString(text, "${1}"+ProgramName+"${2}")
	}
	return text
}

// quotedCommand matches a kubectl command line in quotes, as messages have it.
var quotedCommand = regexp.MustCompile("(['\"`])kubectl ([a-z])")

// AsShoal makes a message advise the program the user runs. It touches only
// commands in quotes: the rest may be the user's own words.
func AsShoal(message string) string {
	return quotedCommand.ReplaceAllString(message, "${1}"+ProgramName+" ${2}")
}

// advising is a writer of messages that advise shoal's commands. Each message
// has to come in one piece.
type advising struct{ io.Writer }

func (a advising) Write(message []byte) (int, error) {
	if _, err := io.WriteString(a.Writer, AsShoal(string(message))); err != nil {
		return 0, err
	}
	return len(message), nil
}

// speakAsShoal makes the help and usage of a tree name shoal. The texts are
// rewritten when they are about to be shown, so a command that runs pays
// nothing.
func speakAsShoal(root *cobra.Command) {
	help, usage := root.HelpFunc(), root.UsageFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		rewriteTexts(cmd)
		help(cmd, args)
	})
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		rewriteTexts(cmd)
		return usage(cmd)
	})
}

func rewriteTexts(cmd *cobra.Command) {
	for _, text := range []*string{&cmd.Short, &cmd.Long, &cmd.Example} {
		*text = asShoal(*text)
	}
	for _, child := range cmd.Commands() {
		child.Short = asShoal(child.Short)
	}
	if cmd.Example == "" {
		cmd.Example = borrowedExample(cmd)
	}
	cmd.Flags().VisitAll(func(flag *pflag.Flag) { flag.Usage = asShoal(flag.Usage) })
}

// borrowedExample gives a command that upstream left without an example one of
// its first subcommand's, or the verb's own from the table.
func borrowedExample(cmd *cobra.Command) string {
	for _, child := range cmd.Commands() {
		if example, _, _ := strings.Cut(child.Example, "\n\n"); example != "" {
			return asShoal(example)
		}
	}
	if verb := Find(cmd.Name()); verb != nil {
		return "  " + verb.Example
	}
	return ""
}
