//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// containerdRetry and containerdRetryMax bound the wait before a containerd of
// our own is started again.
const (
	containerdRetry    = time.Second
	containerdRetryMax = 30 * time.Second
)

// keep starts a containerd of our own again whenever it ends, until ctx does.
// nil is one that is somebody else's to keep.
func (s *containerdServer) keep(ctx context.Context, socket, dataDir string, log *slog.Logger) error {
	if s == nil {
		return nil
	}
	for wait := containerdRetry; ; {
		began := time.Now()
		if err := s.waitEnd(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		if time.Since(began) > containerdRetryMax {
			wait = containerdRetry
		}
		log.Error("containerd ended, and is started again", "pid", s.pid, "log", containerdLog(dataDir))
		for {
			next, err := ensureContainerd(ctx, socket, dataDir, log)
			if err == nil && next != nil {
				s.pid = next.pid
				break
			}
			if err == nil {
				return nil // somebody has started another
			}
			if ctx.Err() != nil {
				return nil
			}
			log.Error("containerd cannot be started, will retry", "error", err, "in", wait)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
			wait = min(2*wait, containerdRetryMax)
		}
	}
}

// waitEnd returns when the process has ended or ctx has. It need not be a child:
// a pidfd is readable once its process has ended (Linux 5.3).
func (s *containerdServer) waitEnd(ctx context.Context) error {
	fd, err := unix.PidfdOpen(s.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch containerd: %w", err)
	}
	defer unix.Close(fd)
	over, end, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("watch containerd: %w", err)
	}
	defer over.Close()
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(closed); _ = end.Close() })
	defer func() {
		if stop() {
			_ = end.Close()
			return
		}
		<-closed
	}()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(over.Fd()), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
