//go:build linux

package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"os/exec"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/test/eventually"
)

// startCounter counts what the log tells of containerds that answer.
type startCounter struct{ atomic.Int32 }

func (c *startCounter) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("containerd started")) {
		c.Add(1)
	}
	return len(line), nil
}

// TestContainerdComesBack: one of our own that dies is started again, and ends
// with its keeper.
func TestContainerdComesBack(t *testing.T) {
	if _, err := exec.LookPath("containerd"); err != nil {
		t.Skip("needs containerd")
	}
	if answers(DefaultContainerd) {
		t.Skip("one is there that is not the test's")
	}
	var starts startCounter
	dir, log := t.TempDir(), slog.New(slog.NewTextHandler(&starts, nil))
	s, err := ensureContainerd(t.Context(), DefaultContainerd, dir, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan error, 1)
	first := s.pid
	go func() { kept <- s.keep(ctx, DefaultContainerd, dir, log) }()
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "another containerd", func() bool {
		now := ownContainerd(dir)
		return now != nil && now.pid != first && starts.Load() >= 2
	})
	cancel()
	if err := <-kept; err != nil {
		t.Error(err)
	}
	if !answers(DefaultContainerd) {
		t.Error("it ended with its keeper")
	}
	s.stop()
	if answers(DefaultContainerd) {
		t.Error("it goes on")
	}
}
