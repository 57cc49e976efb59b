//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// containerdStart bounds the wait for a containerd of our own to answer.
	containerdStart = 20 * time.Second
	// containerdStop is how long it may take to end before it is killed.
	containerdStop = 5 * time.Second
	dialPoll       = 20 * time.Millisecond
	dialTimeout    = time.Second
)

// containerdServer is a containerd that this daemon started because none
// answered on the usual socket. Containers' shims outlive it.
type containerdServer struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// ensureContainerd returns once containerd answers on socket. It starts one if
// none does and the socket is the default; a socket somebody named is theirs to
// serve.
func ensureContainerd(ctx context.Context, socket, dataDir string, log *slog.Logger) (*containerdServer, error) {
	if answers(socket) {
		return nil, nil
	}
	if socket != DefaultContainerd {
		return nil, fmt.Errorf("no containerd answers on %s; start it, or leave --containerd out to let shoal run its own", socket)
	}
	path, err := exec.LookPath("containerd")
	if err != nil {
		return nil, fmt.Errorf("no containerd answers on %s and none is installed (%w); install it with `apt-get install containerd runc`", socket, err)
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return nil, fmt.Errorf("containerd needs runc, which is not installed (%w); install it with `apt-get install runc`", err)
	}
	return startContainerd(ctx, path, socket, dataDir, log)
}

// startContainerd runs path in a session of its own, so that a signal to the
// daemon's terminal does not end it before the daemon does.
func startContainerd(ctx context.Context, path, socket, dataDir string, log *slog.Logger) (*containerdServer, error) {
	logPath := filepath.Join(dataDir, "containerd.log")
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open containerd log: %w", err)
	}
	defer func() { _ = out.Close() }()
	if err := os.MkdirAll(filepath.Dir(socket), 0o711); err != nil {
		return nil, fmt.Errorf("create containerd socket directory: %w", err)
	}
	cmd := exec.Command(path, "--address", socket, "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	s := &containerdServer{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		_ = cmd.Wait()
	}()
	ctx, cancel := context.WithTimeout(ctx, containerdStart)
	defer cancel()
	for !answers(socket) {
		select {
		case <-s.done:
			return nil, fmt.Errorf("containerd ended while starting; see %s", logPath)
		case <-ctx.Done():
			s.stop()
			return nil, fmt.Errorf("containerd does not answer on %s after %s; see %s", socket, containerdStart, logPath)
		case <-time.After(dialPoll):
		}
	}
	log.Info("containerd started", "socket", socket, "pid", cmd.Process.Pid, "log", logPath)
	return s, nil
}

func answers(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, dialTimeout)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// stop ends a containerd of our own; nil is none.
func (s *containerdServer) stop() {
	if s == nil {
		return
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		return
	}
	select {
	case <-s.done:
	case <-time.After(containerdStop):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}
