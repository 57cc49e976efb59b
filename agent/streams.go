package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// streams carries exec, attach and port-forward of one request.
type streams struct {
	a     *Agent
	logs  string // log file to follow, for attach
	netns string // for port-forward; empty is the host's
}

// ExecInContainer runs cmd in the container and returns when it has ended.
func (s *streams) ExecInContainer(ctx context.Context, _, _, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return s.a.exec(ctx, execRequest{id: id, cmd: cmd, in: in, out: out, err: errOut, tty: tty, resize: resize})
}

type execRequest struct {
	id       string
	cmd      []string
	in       io.Reader
	out, err io.Writer
	tty      bool
	resize   <-chan remotecommand.TerminalSize
}

// execEnd bounds the removal of an exec's process after its end or its
// caller's leaving.
const execEnd = 10 * time.Second

func (a *Agent) exec(ctx context.Context, r execRequest) error {
	ctx = namespaces.WithNamespace(ctx, a.o.ContainerdNamespace)
	var input *inputEnd
	if r.in != nil {
		input = &inputEnd{Reader: r.in, ended: make(chan struct{})}
		r.in = input
	}
	process, err := a.execProcess(ctx, r)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), execEnd)
		defer cancel()
		_, _ = process.Delete(end, containerd.WithProcessKill)
	}()
	exited, err := process.Wait(context.WithoutCancel(ctx))
	if err != nil {
		return fmt.Errorf("wait for command: %w", err)
	}
	if err := process.Start(ctx); err != nil {
		return fmt.Errorf("start command: %w", err)
	}
	var wg sync.WaitGroup
	running, stop := context.WithCancel(ctx)
	defer wg.Wait()
	defer stop()
	if r.tty && r.resize != nil {
		wg.Go(func() { followSize(running, process, r.resize) })
	}
	if input != nil {
		wg.Go(func() { closeInput(running, process, input.ended) })
	}
	select {
	case status := <-exited:
		process.IO().Wait()
		if code := status.ExitCode(); code != 0 {
			return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: int(code)}
		}
		return status.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *Agent) execProcess(ctx context.Context, r execRequest) (containerd.Process, error) {
	if len(r.cmd) == 0 {
		return nil, errors.New("exec: no command given")
	}
	container, err := a.client.LoadContainer(ctx, r.id)
	if err != nil {
		return nil, fmt.Errorf("exec: find container: %w", err)
	}
	spec, err := container.Spec(ctx)
	if err != nil {
		return nil, fmt.Errorf("exec: read container: %w", err)
	}
	task, err := container.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil, errors.New("exec: container is not running")
	}
	if err != nil {
		return nil, fmt.Errorf("exec: find process: %w", err)
	}
	p := spec.Process
	p.Args, p.Terminal = r.cmd, r.tty
	opts := []cio.Opt{cio.WithStreams(r.in, r.out, r.err), cio.WithFIFODir(filepath.Join(a.o.DataDir, "fifo"))}
	if r.tty {
		p.Env = append(p.Env, "TERM=xterm")
		opts = append(opts, cio.WithTerminal)
	}
	process, err := task.Exec(ctx, "exec-"+rand.String(10), p, cio.NewCreator(opts...))
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	return process, nil
}

// inputEnd tells when its reader has no more.
type inputEnd struct {
	io.Reader
	once  sync.Once
	ended chan struct{}
}

func (i *inputEnd) Read(p []byte) (int, error) {
	n, err := i.Reader.Read(p)
	if err != nil {
		i.once.Do(func() { close(i.ended) })
	}
	return n, err
}

// closeInput gives the command the end of its input: the shim keeps the pipe
// open for writing, so closing our end of it is not enough.
func closeInput(ctx context.Context, p containerd.Process, ended <-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-ended:
		_ = p.CloseIO(ctx, containerd.WithStdinCloser)
	}
}

func followSize(ctx context.Context, p containerd.Process, sizes <-chan remotecommand.TerminalSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_ = p.Resize(ctx, uint32(size.Width), uint32(size.Height))
		}
	}
}

// AttachContainer follows what the container writes from now on.
func (s *streams) AttachContainer(ctx context.Context, _, _, id string, _ io.Reader, out, errOut io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	none := int64(0)
	opts := &logs.LogOptions{TailLines: &none, Follow: true}
	var o, e io.Writer
	if out != nil {
		o = out
	}
	if errOut != nil {
		e = errOut
	}
	return logs.ReadLogs(ctx, s.logs, id, opts, &runState{a: s.a}, o, e)
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
	<-done
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
