package cli

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"shoal/cmd/shoal/internal/kubectl"
)

var updateScripts = flag.Bool("update", false, "rewrite the expected output in the scripts")

// grammar is the client's commands, with the part of `shoal keys` that is.
type grammar struct {
	Commands
	Keys KeysCmd `cmd:"" group:"cluster" help:"Rotate the keys of gossip."`
}

// TestMain lets scripts run this test binary as shoal.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"shoal": func() {
			kubectl.AdminKubeconfig = os.Getenv("ADMIN_KUBECONFIG")
			os.Exit(Main(&grammar{}, "v1.2.3", os.Args[1:]))
		},
		"cat-stdin": func() { _, _ = io.Copy(os.Stdout, os.Stdin) },
	})
}

// TestScripts runs testdata/*.txtar: the command line as users see it where no
// server answers.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *updateScripts,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("ADMIN_KUBECONFIG", "admin.kubeconfig") // in the working directory
			address, err := closedAddress()
			env.Setenv("CLOSED", address)
			return err
		},
	})
}

// closedAddress is an address on loopback where nothing listens.
func closedAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}
