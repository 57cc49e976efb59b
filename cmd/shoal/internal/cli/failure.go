package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"shoal/cmd/shoal/internal/kubectl"
)

// maxSuggestions bounds the "did you mean" list, as kubectl's.
const (
	maxSuggestions        = 3
	maxSuggestionDistance = 2
)

// exit ends the process with kubectl's message, explained where the reader
// needs more than kubectl says.
func exit(w io.Writer, message string, code int) {
	if message != "" {
		fmt.Fprintln(w, strings.TrimRight(explain(message), "\n"))
	}
	os.Exit(code)
}

// fail reports the error of a command in kubectl's words and form. It returns
// only if there is nothing to report.
func fail(w io.Writer, err error) int {
	err = sole(err)
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) && !isParseError(err) {
		fmt.Fprintln(w, "error:", err)
		return coded.ExitCode()
	}
	cmdutil.CheckErr(err)
	return 0
}

// sole unwraps an error joined with nothing, as kong returns it: kubectl's
// messages go by the error's own type.
func sole(err error) error {
	for {
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok || len(joined.Unwrap()) != 1 {
			return err
		}
		err = joined.Unwrap()[0]
	}
}

// explain adds to an error what to do next when the cluster does not answer.
func explain(message string) string {
	message = kubectl.AsShoal(message)
	if _, reason, found := strings.Cut(message, kubectl.NoCluster); found {
		return "error: " + kubectl.NoCluster + reason
	}
	switch {
	case strings.Contains(message, "was refused - did you specify the right host or port?"),
		strings.Contains(message, "connection refused"):
		return message + "\nIs shoal running there? `sudo shoal start` starts it on this host; " +
			"--kubeconfig and --context name another cluster."
	case strings.Contains(message, "certificate signed by unknown authority"):
		return message + "\nThe kubeconfig belongs to another cluster, or to an earlier one at the same address. " +
			"A fresh one is at " + kubectl.AdminKubeconfig + " on the host; `shoal start --write-kubeconfig` merges it into yours."
	}
	return message
}

// failParse reports arguments the grammar does not know, in kubectl's form.
func failParse(w io.Writer, parser *kong.Kong, err error) int {
	path := parser.Model.Name
	var parseError *kong.ParseError
	if errors.As(err, &parseError) && parseError.Context != nil {
		if node := parseError.Context.Selected(); node != nil {
			path = node.FullPath()
		} else if word, ok := unknownCommand(parseError); ok {
			fmt.Fprintf(w, "error: unknown command %q for %q\n%s", word, path, suggestions(parser.Model.Node, word))
			return 1
		}
	}
	fmt.Fprintf(w, "error: %v\nSee '%s --help' for usage.\n", err, path)
	return 1
}

// unknownCommand returns the word that should have been a command.
func unknownCommand(err *kong.ParseError) (string, bool) {
	if len(err.Context.Args) == 0 || strings.HasPrefix(err.Context.Args[0], "-") {
		return "", false
	}
	return err.Context.Args[0], true
}

func suggestions(node *kong.Node, word string) string {
	var near []string
	for _, child := range node.Children {
		if child.Hidden || len(near) == maxSuggestions {
			continue
		}
		if distance(word, child.Name) <= maxSuggestionDistance || strings.HasPrefix(child.Name, strings.ToLower(word)) {
			near = append(near, child.Name)
		}
	}
	if len(near) == 0 {
		return fmt.Sprintf("See '%s --help' for the list of commands.\n", node.Name)
	}
	return "\nDid you mean this?\n\t" + strings.Join(near, "\n\t") + "\n"
}

// distance is the Levenshtein distance of two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
