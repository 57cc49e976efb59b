package kubectl

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func TestSearch(t *testing.T) {
	dir := t.TempDir()
	admin, own, empty := filepath.Join(dir, "admin"), filepath.Join(dir, "own"), filepath.Join(dir, "empty")
	if err := os.WriteFile(admin, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	config := clientcmdapi.NewConfig()
	if err := clientcmd.WriteToFile(*config, empty); err != nil {
		t.Fatal(err)
	}
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://127.0.0.1:1"}
	if err := clientcmd.WriteToFile(*config, own); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		files []string
		admin string
		want  Searched
	}{
		"own file wins":     {[]string{own}, admin, Searched{}},
		"own file is empty": {[]string{empty}, admin, Searched{Path: admin}},
		"no own file":       {[]string{filepath.Join(dir, "none")}, admin, Searched{Path: admin}},
		"second of two":     {[]string{empty, own}, admin, Searched{}},
		"nothing":           {nil, filepath.Join(dir, "none"), Searched{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			rules := &clientcmd.ClientConfigLoadingRules{Precedence: test.files}
			if got := search(rules, test.admin); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestWhyNowhere(t *testing.T) {
	some := clientcmdapi.Config{Contexts: map[string]*clientcmdapi.Context{"b": nil, "a": nil}}
	tests := map[string]struct {
		raw      clientcmdapi.Config
		searched Searched
		want     string
	}{
		"no context": {some, Searched{}, "the kubeconfig has no current context\n" +
			"Choose one of a, b with --context, or for good with `shoal config use-context NAME`."},
		"denied": {clientcmdapi.Config{}, Searched{Denied: true}, AdminKubeconfig + " is this host's, but only root may read it\n" +
			"Run this command as root, or put the credentials into your kubeconfig with `shoal start --write-kubeconfig`."},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := whyNowhere(test.raw, test.searched); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
