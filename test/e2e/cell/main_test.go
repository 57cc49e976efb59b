// Package cell tests five real peers that are one cell: what is written on one
// is served by all, also after splits, crashes and peers that come and go.
//
// Most tests share one lab. Each of them begins with whole, which brings every
// peer back and waits until all are equal, and may leave the lab as it likes.
package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"shoal/cmd/shoal/lab"
	"shoal/test/harness"
)

const (
	// nodes is enough for a majority, a minority, and one that is dead.
	nodes = 5
	// labWithin bounds each change of the lab; peers share the machine's cores.
	labWithin = 3 * time.Minute
	// image is what the pods of these tests run: the hello server, and busybox.
	image = "hello:e2e"
)

var (
	world *harness.World
	shoal string
	cell  *lab.Lab
)

func TestMain(m *testing.M) {
	os.Exit(harness.Main(func(w *harness.World) int {
		world = w
		return harness.RulesUnchanged(func() int {
			code, err := inLab(m)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			return code
		})
	}))
}

// inLab runs the tests in a lab that goes away with them.
func inLab(m *testing.M) (code int, err error) {
	if shoal, err = harness.Binary("bin/shoal"); err != nil {
		return 0, err
	}
	ctx := context.Background()
	// A name that stays the same, so that a run clears what one that was
	// killed left behind.
	dir := filepath.Join(filepath.Dir(shoal), "cell-test")
	if err := lab.Down(ctx, dir); err != nil {
		return 0, err
	}
	upCtx, cancel := context.WithTimeout(ctx, labWithin)
	defer cancel()
	if cell, err = lab.Up(upCtx, lab.Options{Dir: dir, Nodes: nodes, Shoal: shoal, Progress: os.Stderr}); err != nil {
		return 0, err
	}
	defer func() {
		if downErr := cell.Down(ctx); downErr != nil && err == nil {
			err = downErr
		}
	}()
	if err := buildImage(ctx); err != nil {
		return 0, err
	}
	for n := 1; n <= nodes; n++ {
		if err := loadImage(ctx, n); err != nil {
			return 0, err
		}
	}
	if err := connectAll(); err != nil {
		return 0, err
	}
	return m.Run(), noRules(ctx)
}

// noRules makes sure that no peer has a netfilter rule: their networks were made
// without any. A peer that the last test left dead has none to show.
func noRules(ctx context.Context) error {
	answered := 0
	for n := 1; n <= nodes; n++ {
		rules, err := harness.Rules(func(argv ...string) (string, error) { return cell.Output(ctx, n, argv...) })
		if err != nil {
			continue
		}
		if answered++; rules != "" {
			return fmt.Errorf("peer %d has netfilter rules:\n%s", n, rules)
		}
	}
	if answered == 0 {
		return errors.New("no peer told its netfilter rules")
	}
	return nil
}

func archive() string { return filepath.Join(world.Dir, "image.tar") }

// buildImage makes the archive of image.
func buildImage(ctx context.Context) error {
	program := filepath.Join(world.Dir, "hello")
	build := harness.Command{Argv: []string{"go", "build", "-ldflags", "-s -w", "-o", program, "./testdata/hello"}, Env: []string{"CGO_ENABLED=0"}}
	if result := build.Run(ctx); result.Err != nil {
		return result.Err
	}
	return harness.WriteImage(ctx, archive(), image, program, "")
}

func loadImage(ctx context.Context, n int) error {
	_, err := cell.Output(ctx, n, "shoal", "image", "load", archive())
	return err
}
