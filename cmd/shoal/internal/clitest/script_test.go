package clitest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"shoal/api"
	"shoal/api/pki"
	"shoal/cmd/shoal/internal/cli"
	"shoal/store"
)

var updateScripts = flag.Bool("update", false, "rewrite the expected output in the scripts")

// TestMain lets scripts run this test binary as shoal.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"shoal": func() { os.Exit(cli.Main(&struct{ cli.Commands }{}, "v1.2.3", os.Args[1:])) },
	})
}

// TestScripts runs testdata/*.txtar, each in a namespace of its own, against
// one API server.
func TestScripts(t *testing.T) {
	kubeconfig := startAPI(t)
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
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
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	names := pki.Names{Node: "host1", DNS: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}
	files, err := pki.Ensure(filepath.Join(dir, "pki"), names, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	db, err := store.Open(ctx, store.Options{Dir: filepath.Join(dir, "store"), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	server, err := api.New(ctx, api.Options{
		DB: db, PKI: files, Listener: listener, Advertise: netip.MustParseAddr("127.0.0.1"),
		NodeName: "host1", AgentPort: 1, ServiceCIDR: api.DefaultServiceCIDR, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, db.Close()); err != nil {
			t.Errorf("stop the API: %v", err)
		}
	})
	kubeconfig := filepath.Join(dir, "admin.kubeconfig")
	if err := api.WriteKubeconfig(kubeconfig, fmt.Sprintf("https://%s", listener.Addr()), files); err != nil {
		t.Fatal(err)
	}
	waitForNamespace(t, server)
	return kubeconfig
}

// waitForNamespace returns once the server has made the default namespace,
// which is the last thing it does before it is of use.
func waitForNamespace(t *testing.T, server *api.Server) {
	t.Helper()
	client, err := kubernetes.NewForConfig(server.ClientConfig("clitest"))
	if err != nil {
		t.Fatal(err)
	}
	const every, limit = 20 * time.Millisecond, time.Minute
	err = wait.PollUntilContextTimeout(t.Context(), every, limit, true, func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
		return err == nil, nil
	})
	if err != nil {
		t.Fatalf("the default namespace does not appear: %v", err)
	}
}
