//go:build linux

package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// DrainSignal asks a daemon to stop its pods before it ends; SIGTERM asks it
// to end and leave them.
const DrainSignal = syscall.SIGUSR1

const stopPoll = 20 * time.Millisecond

// Stop ends the daemon on dataDir and waits until it has. With pods it stops
// the host's pods and takes their network away too, also when no daemon runs.
func Stop(ctx context.Context, dataDir string, pods bool, out io.Writer) error {
	if err := checkRoot(); err != nil {
		return err
	}
	dataDir = orDefault(dataDir, DefaultDataDir)
	pid, err := running(dataDir)
	if err != nil {
		return err
	}
	if pid == 0 && !pods {
		_, err := fmt.Fprintf(out, "no daemon runs on %s\n", dataDir)
		return err
	}
	if pid == 0 {
		return stopOrphans(ctx, dataDir, out)
	}
	signal := syscall.Signal(syscall.SIGTERM)
	if pods {
		signal = DrainSignal
	}
	if err := syscall.Kill(pid, signal); err != nil {
		return fmt.Errorf("signal daemon %d: %w", pid, err)
	}
	for {
		if still, err := running(dataDir); err != nil {
			return err
		} else if still == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("daemon %d has not ended: %w; see its log, or end it with `kill -9 %d` (no data is lost by that)", pid, ctx.Err(), pid)
		case <-time.After(stopPoll):
		}
	}
	if pods {
		_, err = fmt.Fprintln(out, "shoal stopped, and its pods with it")
	} else {
		_, err = fmt.Fprintln(out, "shoal stopped; pods go on running (stop them too with --pods)")
	}
	return err
}

// stopOrphans starts the daemon that last ran on dataDir, without showing it to
// anybody, only to stop the pods it finds.
func stopOrphans(ctx context.Context, dataDir string, out io.Writer) error {
	config, err := Load(dataDir)
	if err != nil {
		if _, statErr := os.Stat(dataDir); os.IsNotExist(statErr) {
			_, err = fmt.Fprintf(out, "no daemon has run on %s\n", dataDir)
		}
		return err
	}
	drain := make(chan struct{})
	quiet := Output{Progress: io.Discard, Log: os.Stderr, Ready: func() { close(drain) }}
	if err := Run(ctx, config, quiet, drain); err != nil {
		return fmt.Errorf("stop pods left by an earlier daemon: %w", err)
	}
	_, err = fmt.Fprintln(out, "pods left by an earlier daemon stopped")
	return err
}
