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
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shoal/api/pki"
)

const (
	// containerdStart bounds the wait for a containerd of our own to answer.
	containerdStart = 20 * time.Second
	// containerdStop is how long it may take to end before it is killed.
	containerdStop = 5 * time.Second
	dialPoll       = 20 * time.Millisecond
	dialTimeout    = time.Second
)

// containerdSettings leave out the plug-in that serves Kubernetes' CRI: shoal
// talks to containerd itself, and the plug-in costs some 20 MB; and the one that
// makes /opt/containerd for programs nobody installs there.
const containerdSettings = `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
`

// containerdServer is a containerd that a daemon on this data directory started
// because none answered on the usual socket. Containers' shims outlive it.
type containerdServer struct {
	pid     int
	pidFile string
}

// ensureContainerd returns once containerd answers on socket. It starts one if
// none does and the socket is the default; a socket somebody named is theirs to
// serve. The result is nil for a containerd that is not ours to stop.
func ensureContainerd(ctx context.Context, socket, dataDir string, log *slog.Logger) (*containerdServer, error) {
	if answers(socket) {
		return ownContainerd(dataDir), nil
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

func containerdLog(dataDir string) string { return filepath.Join(dataDir, "containerd.log") }

func pidFileIn(dataDir string) string { return filepath.Join(dataDir, "containerd.pid") }

// ownContainerd finds the containerd an earlier daemon on dataDir started and
// could not stop, because it was killed itself.
func ownContainerd(dataDir string) *containerdServer {
	data, err := os.ReadFile(pidFileIn(dataDir))
	if err != nil {
		return nil
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return nil
	}
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || strings.TrimSpace(string(name)) != "containerd" {
		return nil
	}
	return &containerdServer{pid: pid, pidFile: pidFileIn(dataDir)}
}

// startContainerd runs path in a session of its own, so that a signal to the
// daemon's terminal does not end it before the daemon does.
func startContainerd(ctx context.Context, path, socket, dataDir string, log *slog.Logger) (*containerdServer, error) {
	logPath, settings := containerdLog(dataDir), filepath.Join(dataDir, "containerd.toml")
	if err := pki.WriteFile(settings, []byte(containerdSettings), 0o600); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open containerd log: %w", err)
	}
	defer func() { _ = out.Close() }()
	if err := os.MkdirAll(filepath.Dir(socket), 0o711); err != nil {
		return nil, fmt.Errorf("create containerd socket directory: %w", err)
	}
	cmd := exec.Command(path, "--config", settings, "--address", socket, "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	s := &containerdServer{pid: cmd.Process.Pid, pidFile: pidFileIn(dataDir)}
	ended := make(chan struct{})
	go func() { // reaps the child whenever it ends
		_ = cmd.Wait()
		close(ended)
	}()
	if err := pki.WriteFile(s.pidFile, []byte(strconv.Itoa(s.pid)+"\n"), 0o600); err != nil {
		s.stop()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, containerdStart)
	defer cancel()
	for !answers(socket) {
		select {
		case <-ended:
			return nil, fmt.Errorf("containerd ended while starting; see %s", logPath)
		case <-ctx.Done():
			s.stop()
			return nil, fmt.Errorf("containerd does not answer on %s after %s; see %s", socket, containerdStart, logPath)
		case <-time.After(dialPoll):
		}
	}
	log.Info("containerd started", "socket", socket, "pid", s.pid, "log", logPath)
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
	defer func() {
		_ = os.Remove(s.pidFile)
		_ = os.Remove(DefaultContainerd + ".ttrpc") // containerd leaves this socket behind
	}()
	if err := unix.Kill(s.pid, unix.SIGTERM); errors.Is(err, unix.ESRCH) {
		return
	}
	for deadline := time.Now().Add(containerdStop); time.Now().Before(deadline); time.Sleep(dialPoll) {
		if errors.Is(unix.Kill(s.pid, 0), unix.ESRCH) {
			return
		}
	}
	_ = unix.Kill(s.pid, unix.SIGKILL)
}
