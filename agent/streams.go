package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"shoal/agent/logwriter"
	"shoal/agent/runner"
)

// streams carries exec, attach and port-forward of one request.
type streams struct {
	a     *Agent
	pod   *v1.Pod    // for attach
	ref   runner.Ref // for attach
	logs  string     // log file to follow, for attach without a console
	netns string     // for port-forward; empty is the host's
}

// ExecInContainer runs cmd in the container and returns when it has ended.
func (s *streams) ExecInContainer(ctx context.Context, _, _, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	// The peer must see the streams' ends before the connection's: closing
	// the connection drops what is still on its way.
	defer closeStreams(out, errOut)
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	code, err := s.a.runner.Exec(ctx, runner.ExecRequest{
		ID: id, Command: cmd, In: in, Out: watchLeaving(out, leave), Err: watchLeaving(errOut, leave), TTY: tty, Resize: sizes(ctx, resize),
	})
	var command *runner.CommandError
	if errors.As(err, &command) {
		to := errOut
		if tty || to == nil {
			to = out
		}
		if to != nil {
			fmt.Fprintln(to, command.Err)
		}
		code, err = command.Code, nil
	}
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

// leaving ends something when its client takes no more.
type leaving struct {
	to    io.Writer // nil once it has failed
	leave func()
}

// watchLeaving calls leave when to fails, and drops what comes then: the shim
// waits for somebody to take the output before it lets a command go. A command
// whose client has left goes on, as with the kubelet, until it writes.
func watchLeaving(to io.Writer, leave func()) io.Writer {
	if to == nil {
		return nil
	}
	return &leaving{to: to, leave: leave}
}

// Write implements io.Writer.
func (l *leaving) Write(p []byte) (int, error) {
	if l.to == nil {
		return len(p), nil
	}
	if _, err := l.to.Write(p); err != nil {
		l.to = nil
		l.leave()
	}
	return len(p), nil
}

func closeStreams(streams ...io.WriteCloser) {
	for _, s := range streams {
		if s != nil {
			_ = s.Close()
		}
	}
}

// sizes passes terminal sizes on as plain numbers, until ctx ends or the
// stream does.
func sizes(ctx context.Context, from <-chan remotecommand.TerminalSize) <-chan [2]uint16 {
	if from == nil {
		return nil
	}
	out := make(chan [2]uint16)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case s, ok := <-from:
				if !ok {
					return
				}
				select {
				case out <- [2]uint16{s.Width, s.Height}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// AttachContainer joins the client to the container's console. A container
// without one has no input, and its log is followed from now on. Of one that has
// ended, there is what the client has not read in the log.
func (s *streams) AttachContainer(ctx context.Context, _, _, id string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	defer closeStreams(out, errOut)
	if read, ok := s.a.readAt(s.ref); ok && !s.ref.Running {
		return logs.ReadLogs(ctx, s.logs, id, &logs.LogOptions{Since: read}, &runState{a: s.a}, out, errOut)
	}
	if s.ref.Console != "" {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		err := s.a.runner.Attach(ctx, runner.AttachRequest{Ref: s.ref, In: in, Out: out, Err: errOut, Resize: sizes(ctx, resize)})
		if errors.Is(err, logwriter.ErrNoConsole) {
			return errors.New(notRunning(s.pod, s.ref))
		}
		return err
	}
	none := int64(0)
	opts := &logs.LogOptions{TailLines: &none, Follow: true}
	return logs.ReadLogs(ctx, s.logs, id, opts, &runState{a: s.a}, out, errOut)
}

// PortForward joins a stream to a port on the pod's loopback.
func (s *streams) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	conn, err := dialIn(ctx, s.netns, port)
	if err != nil {
		return fmt.Errorf("forward port %d: %w", port, err)
	}
	defer conn.Close()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, stream)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		done <- err
	}()
	_, err = io.Copy(stream, conn)
	_ = stream.Close()
	<-done //nolint:errcheck // the other direction's end says nothing the client has not seen
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return err
	}
	return nil
}

// dialIn connects to the loopback of a network namespace, IPv4 first.
func dialIn(ctx context.Context, netns string, port int32) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	out := make(chan result, 1)
	go func() {
		if netns != "" {
			// The thread changes namespace and ends with this goroutine.
			runtime.LockOSThread()
			if err := enter(netns); err != nil {
				out <- result{nil, err}
				return
			}
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			if six, err6 := d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(int(port)))); err6 == nil {
				conn, err = six, nil
			}
		}
		out <- result{conn, err}
	}()
	r := <-out
	return r.conn, r.err
}

func enter(netns string) error {
	fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}
