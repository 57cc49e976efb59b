// Package lab tests `shoal lab` on real parts: it makes labs as a user does,
// harms them, and compares what the machine holds before and after.
package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"shoal/cmd/shoal/lab"
	"shoal/test/harness"
)

const (
	nodes = 3
	// separate peers: nothing here is about what they say to each other.
	separate = true
	// labWithin bounds each command on the lab; peers share the machine's cores.
	labWithin = 3 * time.Minute
)

var (
	world *harness.World
	shoal string
	dir   string
)

func TestMain(m *testing.M) {
	if task := os.Getenv(taskEnv); task != "" {
		os.Exit(runTask(task))
	}
	os.Exit(harness.Main(func(w *harness.World) int {
		world = w
		var err error
		if shoal, err = harness.Binary("bin/shoal"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		// A name that stays the same, so that a run clears what one that was
		// killed left behind.
		dir = filepath.Join(filepath.Dir(shoal), "lab-test")
		return harness.RulesUnchanged(m.Run)
	}))
}

// up makes the test's lab, which goes away with it.
func up(t *testing.T, nodes int) *lab.Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), labWithin)
	defer cancel()
	l, err := lab.Up(ctx, lab.Options{Dir: dir, Nodes: nodes, Shoal: shoal, Separate: separate, Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { down(t) })
	return l
}

func down(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), labWithin)
	defer cancel()
	if err := lab.Down(ctx, dir); err != nil {
		t.Error(err)
	}
}

// command runs `shoal lab` as a user would; the lab's directory is added.
func command(t *testing.T, verb string, args ...string) harness.Result {
	t.Helper()
	return harness.Command{Argv: append([]string{shoal, "lab", verb, "--dir", dir}, args...)}.Run(t.Context())
}

func must(t *testing.T, verb string, args ...string) string {
	t.Helper()
	result := command(t, verb, args...)
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	return result.Stdout
}

// eventually waits for check to pass.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := harness.Until(ctx, 50*time.Millisecond, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
