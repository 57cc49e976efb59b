// Package e2e tests shoal as its users meet it: bin/shoal, a real containerd,
// the stock clients, and traffic from pods, from the host and from another
// machine. One daemon is shared by all tests; a test that ends it starts it
// again.
//
// What always holds: a test works in a namespace of its own and leaves the
// daemon running. Tests run one after the other, so that the counts taken by
// the leak test and the restarts of others do not meet.
package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"shoal/test/harness"
	"shoal/test/traffic"
)

// The shared machine and daemon. Set before any test runs.
var (
	world      *harness.World
	containerd *harness.Containerd
	daemon     *harness.Daemon
	config     *rest.Config
	client     kubernetes.Interface
)

func TestMain(m *testing.M) {
	if is, err := traffic.RunChild(); is { // of startLoad
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(harness.Main(func(w *harness.World) int {
		return harness.RulesUnchanged(func() int { return withDaemon(w, m.Run) })
	}))
}

// withDaemon runs the tests while the daemon they share is there.
func withDaemon(w *harness.World, run func() int) int {
	if err := setUp(w); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	code := run()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "e2e: end of the daemon's log:\n%s\n", harness.Tail(daemon.LogFile))
		keepLogs()
	}
	if err := tearDown(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return code
}

func setUp(w *harness.World) error {
	ctx := context.Background()
	binary, err := harness.Binary("bin/shoal")
	if err != nil {
		return err
	}
	world = w
	if containerd, err = harness.StartContainerd(ctx, filepath.Join(w.Dir, "containerd")); err != nil {
		return err
	}
	daemon = w.NewDaemon(binary, containerd)
	if err := daemon.Start(ctx); err != nil {
		return err
	}
	if config, err = daemon.RestConfig(); err != nil {
		return err
	}
	if client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	return loadImages(ctx)
}

// keepLogs copies the logs out of the world, which is removed, to where
// SHOAL_TEST_LOGS says.
func keepLogs() {
	dir := os.Getenv("SHOAL_TEST_LOGS")
	if dir == "" {
		return
	}
	for _, path := range []string{daemon.LogFile, filepath.Join(world.Dir, "containerd", "containerd.log")} {
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e: keep logs:", err)
		}
	}
}

// tearDown ends the daemon with its pods, and containerd.
func tearDown() error {
	result := daemon.Command("stop", "--pods", "--data-dir", daemon.DataDir).Run(context.Background())
	containerd.Stop()
	return result.Err
}
