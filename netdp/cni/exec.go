package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"shoal/netdp/netns"
)

const (
	// maxAnswer bounds what a plugin may print; results have some kilobytes.
	maxAnswer = 1 << 20
	// pipesAfterEnd is how long the pipes of a plugin that ended, or was killed, may
	// stay open: a child that it left behind may hold them.
	pipesAfterEnd = time.Second
	// busyTries and busyPause are for a plugin that is just being installed.
	busyTries = 5
	busyPause = 200 * time.Millisecond
	// ownEnv begins the names of the daemon's own variables, one of which is the
	// token it joins with.
	ownEnv = "SHOAL_"
)

// executor runs plugins, in the host's network namespace. It implements
// invoke.Exec.
type executor struct {
	version.PluginDecoder
	netns string // empty: the process's
	state string // the driver's directory
	log   *slog.Logger
}

// FindInPath implements invoke.Exec.
func (*executor) FindInPath(plugin string, dirs []string) (string, error) {
	return findPlugin(plugin, dirs)
}

// ExecPlugin implements invoke.Exec.
func (x *executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	for try := 1; ; try++ {
		out, err := x.runOnce(ctx, path, stdin, environ)
		if !errors.Is(err, syscall.ETXTBSY) || try == busyTries {
			return out, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(busyPause):
		}
	}
}

func (x *executor) runOnce(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr limited
	begun := time.Now()
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append(withoutOwn(environ), stateEnv+"="+x.state)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	// A group of its own: the plugins that it runs are in it too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pipesAfterEnd
	err := inHost(x.netns, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		err = nil // it succeeded; a child that it left behind still holds its pipes
	}
	name := filepath.Base(path)
	if said := strings.TrimSpace(stderr.kept.String()); said != "" {
		x.log.Debug("CNI plugin says", "plugin", name, "text", said)
	}
	switch {
	case stdout.over || stderr.over:
		return nil, fmt.Errorf("it prints more than %d bytes", maxAnswer)
	case err == nil:
		return stdout.kept.Bytes(), nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("it did not end within %s, and was killed with its children", time.Since(begun).Round(time.Millisecond))
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case cmd.Process == nil:
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return nil, pluginError(err, stdout.kept.Bytes(), stderr.kept.Bytes())
}

// inHost runs f on a thread in the host's network namespace, so that a child begins
// there; an empty path is the process's own.
func inHost(path string, f func() error) error {
	if path == "" {
		return f()
	}
	return netns.OnOwnThread(func() error {
		if err := netns.Enter(path); err != nil {
			return err
		}
		return f()
	})
}

// pluginError is what a plugin that failed says: an error object on its output,
// or else whatever it printed.
func pluginError(err error, stdout, stderr []byte) error {
	said := &types.Error{}
	if json.Unmarshal(stdout, said) == nil && said.Msg != "" {
		said.Msg, said.Details = clip(said.Msg), clip(said.Details)
		return said
	}
	text := strings.TrimSpace(string(stdout) + " " + string(stderr))
	if text == "" {
		return fmt.Errorf("it failed without a word: %w", err)
	}
	return fmt.Errorf("it failed: %w: %s", err, clip(text))
}

// maxSaid keeps what is no error object fit for an Event.
const maxSaid = 1000

func clip(text string) string {
	if len(text) > maxSaid {
		return strings.ToValidUTF8(text[:maxSaid], "") + "…"
	}
	return text
}

func withoutOwn(environ []string) []string {
	out := make([]string, 0, len(environ))
	for _, kv := range environ {
		if !strings.HasPrefix(kv, ownEnv) {
			out = append(out, kv)
		}
	}
	return out
}

// limited takes maxAnswer bytes; a plugin that writes on finds its pipe closed. It
// has no other method of a buffer's: io.Copy would read by that past the limit.
type limited struct {
	kept bytes.Buffer
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	room := maxAnswer - l.kept.Len()
	if len(p) <= room {
		return l.kept.Write(p)
	}
	l.over = true
	n, _ := l.kept.Write(p[:room]) // never fails
	return n, io.ErrShortWrite
}
