package cli

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// TestVerbArguments checks that what follows a verb reaches kubectl unchanged.
func TestVerbArguments(t *testing.T) {
	tests := map[string]struct{ args, want []string }{
		"none":               {[]string{"get"}, nil},
		"flags":              {[]string{"get", "pods", "-o=wide", "--watch", "-lapp=hw"}, []string{"pods", "-o=wide", "--watch", "-lapp=hw"}},
		"help":               {[]string{"get", "--help"}, []string{"--help"}},
		"help asked first":   {[]string{"help", "get"}, []string{"--help"}},
		"dashes":             {[]string{"exec", "-it", "hw", "--", "sh", "-c", "x", "--", "y"}, []string{"-it", "hw", "--", "sh", "-c", "x", "--", "y"}},
		"only dashes":        {[]string{"exec", "hw", "--"}, []string{"hw", "--"}},
		"empty and dash":     {[]string{"apply", "-f", "-", ""}, []string{"-f", "-", ""}},
		"name of a verb":     {[]string{"get", "get", "run"}, []string{"get", "run"}},
		"global flag first":  {[]string{"-n", "web", "--context=c", "get", "pods"}, []string{"-n", "web", "--context=c", "pods"}},
		"joined global flag": {[]string{"-nweb", "get", "pods"}, []string{"-nweb", "pods"}},
		"verbose":            {[]string{"-v", "6", "get", "pods"}, []string{"-v", "6", "pods"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			streams, _, _, _ := genericiooptions.NewTestIOStreams()
			parser, err := newParser(&struct{ Commands }{}, streams)
			if err != nil {
				t.Fatal(err)
			}
			ctx, err := parser.Parse(normalize(test.args))
			if err != nil {
				t.Fatal(err)
			}
			verb, ok := ctx.Selected().Target.Addr().Interface().(*passthrough)
			if !ok {
				t.Fatalf("%v is not a verb of kubectl's", ctx.Command())
			}
			if !slices.Equal(verb.Args, test.want) {
				t.Errorf("kubectl gets %q, want %q", verb.Args, test.want)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	tests := map[string]struct {
		message string
		want    string // what is added, or the whole if it starts with "error:"
	}{
		"plain":     {`error: unknown flag: --x`, ""},
		"not found": {`Error from server (NotFound): pods "a" not found`, ""},
		"refused":   {"The connection to the server h:1 was refused - did you specify the right host or port?", "Is shoal running there?"},
		"ca":        {"Unable to connect to the server: tls: x509: certificate signed by unknown authority", "another cluster"},
		"advice":    {"error: resume it first with 'kubectl rollout resume'", "error: resume it first with 'shoal rollout resume'"},
		"own words": {`Error from server (NotFound): pods "kubectl" not found`, ""},
		"nowhere":   {"Unable to connect to the server: no cluster to talk to: because", "error: no cluster to talk to: because"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := explain(test.message)
			switch {
			case test.want == "":
				if got != test.message {
					t.Errorf("changed to %q", got)
				}
			case strings.HasPrefix(test.want, "error:"):
				if got != test.want {
					t.Errorf("got %q", got)
				}
			case !strings.HasPrefix(got, test.message+"\n") || !strings.Contains(got, test.want):
				t.Errorf("got %q, want it to add %q", got, test.want)
			}
		})
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{{"", "", 0}, {"get", "get", 0}, {"gte", "get", 2}, {"gett", "get", 1}, {"", "run", 3}, {"logs", "log", 1}, {"kitten", "sitting", 3}}
	for _, test := range tests {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
