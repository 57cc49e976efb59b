package clitest

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"shoal/api"
	"shoal/api/apitest"
	"shoal/cmd/shoal/internal/cli"
)

var updateScripts = flag.Bool("update", false, "rewrite the expected output in the scripts")

// grammar is the client's commands, with the part of `shoal keys` that is.
type grammar struct {
	cli.Commands
	Keys cli.KeysCmd `cmd:""`
}

// TestMain lets scripts run this test binary as shoal.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"shoal": func() { os.Exit(cli.Main(&grammar{}, "v1.2.3", os.Args[1:])) },
	})
}

// lonely are scripts about the addresses of the cell's hosts: each needs to be
// the only one that makes hosts with addresses. The last leaves one.
var lonely = []string{"token", "walk", "policy_addresses"}

// TestScripts runs testdata/*.txtar, each in a namespace of its own, against
// one API server.
func TestScripts(t *testing.T) {
	kubeconfig := startAPI(t)
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	sociable := slices.DeleteFunc(files, func(file string) bool {
		return slices.Contains(lonely, strings.TrimSuffix(filepath.Base(file), ".txtar"))
	})
	t.Run("together", func(t *testing.T) { runScripts(t, kubeconfig, sociable...) })
	for _, name := range lonely {
		t.Run("alone", func(t *testing.T) { runScripts(t, kubeconfig, filepath.Join("testdata", name+".txtar")) })
	}
}

func runScripts(t *testing.T, kubeconfig string, files ...string) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Files:         files,
		UpdateScripts: *updateScripts,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			// A copy of its own: scripts choose their namespace in it.
			own := filepath.Join(env.WorkDir, "kubeconfig")
			env.Setenv("KUBECONFIG", own)
			content, err := os.ReadFile(kubeconfig)
			if err != nil {
				return err
			}
			return os.WriteFile(own, content, 0o600)
		},
	})
}

// startAPI serves the API on loopback until the test ends and returns its
// administrator's kubeconfig.
func startAPI(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	peer, err := apitest.Start(context.Background(), dir, slog.New(slog.DiscardHandler), addControl)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := peer.Stop(); err != nil {
			t.Errorf("stop the API: %v", err)
		}
	})
	kubeconfig := filepath.Join(dir, "admin.kubeconfig")
	if err := api.WriteKubeconfig(kubeconfig, peer.URL, peer.PKI); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}
