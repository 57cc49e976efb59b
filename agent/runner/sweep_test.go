package runner

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"

	"shoal/netdp/driver"
)

// crowded is a network in which pods come while it is asked what is attached.
type crowded struct {
	driver.Driver
	meanwhile func()
}

func (c *crowded) Attached(ctx context.Context) ([]string, error) {
	c.meanwhile()
	return c.Driver.Attached(ctx)
}

// TestSweepSparesWhoComes: a pod that comes during the sweep after a start keeps
// what it has, its logs too.
func TestSweepSparesWhoComes(t *testing.T) {
	b := newBed(t)
	p := pod("comes", "trap 'exit 0' TERM; while :; do sleep 1; done")
	b.runner.Network = &crowded{Driver: b.runner.Network, meanwhile: sync.OnceFunc(func() {
		b.runner.Set(p)
		b.phase(p, v1.PodRunning)
	})}
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	if err := b.runner.Synced(ctx); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{filepath.Join(b.dir, "pods", string(p.UID)), LogDir(filepath.Join(b.dir, "logs"), p)} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	if uids, err := b.network.Attached(ctx); err != nil || len(uids) != 1 {
		t.Errorf("attached: %v (%v)", uids, err)
	}
	b.remove(p)
}

// TestPipesOfEarlierCommandsGo: a daemon that was killed left them.
func TestPipesOfEarlierCommandsGo(t *testing.T) {
	b := newBed(t)
	left := filepath.Join(b.dir, "fifo", "1")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	b.stop()
	b.start()
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("they are there: %v", err)
	}
	p := pod("runs", "trap 'exit 0' TERM; while :; do sleep 1; done")
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	if got := b.run(p, "echo", "word"); got != "word\n" {
		t.Errorf("a command says %q", got)
	}
	b.remove(p)
}
