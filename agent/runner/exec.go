package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"k8s.io/apimachinery/pkg/util/rand"
)

// ExecRequest is a command to run in a container.
type ExecRequest struct {
	ID       string // the container's
	Command  []string
	In       io.Reader // may be nil
	Out, Err io.Writer // may be nil
	TTY      bool
	Resize   <-chan [2]uint16 // width and height; may be nil
	Started  func()           // called when the command runs; may be nil
}

// Exec runs a command in a running container and gives its exit code. When
// ctx ends first, the command is killed.
func (r *Runner) Exec(ctx context.Context, req ExecRequest) (int, error) {
	ctx = namespaces.WithNamespace(ctx, r.Namespace)
	var input *inputEnd
	if req.In != nil {
		input = &inputEnd{Reader: req.In, ended: make(chan struct{})}
		req.In = input
	}
	process, err := r.execProcess(ctx, req)
	if err != nil {
		return 0, err
	}
	// The call that starts it is not cut when the caller leaves: the shim would
	// kill runc in the midst of it and know nothing of what runc has started.
	waiting, give := context.WithCancel(context.WithoutCancel(ctx))
	begun := make(chan error, 1)
	var starts, wg sync.WaitGroup
	mayRun := true
	defer func() {
		r.endExec(ctx, req.ID, process, mayRun, func() {
			closeIO(process)
			give()
			starts.Wait()
		})
	}()
	defer wg.Wait()
	exited, err := process.Wait(waiting)
	if err != nil {
		return 0, fmt.Errorf("wait for command: %w", err)
	}
	starts.Go(func() { begun <- process.Start(waiting) })
	select {
	case err := <-begun:
		if err != nil {
			return 0, notStarted(err)
		}
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if req.Started != nil {
		req.Started()
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	if req.TTY && req.Resize != nil {
		wg.Go(func() { followSize(running, process, req.Resize) })
	}
	if input != nil {
		wg.Go(func() { closeInput(running, process, input.ended) })
	}
	select {
	case status := <-exited:
		if err := outputEnd(ctx, process.IO()); err != nil {
			killSession(int(process.Pid()))
			return 0, err
		}
		mayRun = status.Error() != nil
		return int(status.ExitCode()), status.Error()
	case <-ctx.Done():
		killSession(int(process.Pid()))
		return 0, ctx.Err()
	}
}

// CommandError is a command that the runtime could not start.
type CommandError struct {
	Code int // what a shell would give: 127 not found, 126 not to be executed
	Err  error
}

func (e *CommandError) Error() string { return fmt.Sprintf("start command: %v", e.Err) }
func (e *CommandError) Unwrap() error { return e.Err }

// notStarted tells a fault of the command, by runc's and crun's words, from
// one of the runtime.
func notStarted(err error) error {
	text := err.Error()
	for says, code := range map[string]int{
		"executable file not found": 127, "no such file or directory": 127,
		"permission denied": 126, "is a directory": 126, "exec format error": 126,
	} {
		if strings.Contains(strings.ToLower(text), says) && strings.Contains(text, "exec") {
			return &CommandError{code, err}
		}
	}
	return fmt.Errorf("start command: %w", err)
}

// outputEnd waits until the output is closed: what the command left running may
// hold it open for longer than anybody listens.
func outputEnd(ctx context.Context, streams cio.IO) error {
	closed := make(chan struct{})
	go func() {
		streams.Wait()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		streams.Cancel()
		_ = streams.Close()
		<-closed
		return ctx.Err()
	}
}

// fifoDir has the named pipes of commands that run.
func (r *Runner) fifoDir() string { return filepath.Join(r.DataDir, "fifo") }

func (r *Runner) execProcess(ctx context.Context, req ExecRequest) (containerd.Process, error) {
	if len(req.Command) == 0 {
		return nil, errors.New("exec: no command given")
	}
	container, err := r.Client.LoadContainer(ctx, req.ID)
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
	// The shim of a process without a terminal wants both outputs.
	if req.Out == nil {
		req.Out = io.Discard
	}
	if req.Err == nil && !req.TTY {
		req.Err = io.Discard
	}
	p := spec.Process
	p.Args, p.Terminal = req.Command, req.TTY
	opts := []cio.Opt{cio.WithStreams(req.In, req.Out, req.Err), cio.WithFIFODir(r.fifoDir())}
	if req.TTY {
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

// Read implements io.Reader.
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

func followSize(ctx context.Context, p containerd.Process, sizes <-chan [2]uint16) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_ = p.Resize(ctx, uint32(size[0]), uint32(size[1]))
		}
	}
}

// outputMax bounds what is kept of a probe's or a hook's output.
const outputMax = 10 << 10

// execOutput runs a command and gives its exit code and the start of what it
// wrote.
func (r *Runner) execOutput(ctx context.Context, id string, command []string, timeout time.Duration) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out := &boundedBuffer{}
	code, err := r.Exec(ctx, ExecRequest{ID: id, Command: command, Out: out, Err: out})
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("command timed out after %s", timeout)
	}
	return code, out.String(), err
}

// boundedBuffer keeps the first bytes and drops the rest.
type boundedBuffer struct {
	limit int // zero is outputMax
	mu    sync.Mutex
	buf   bytes.Buffer // guarded by mu
}

// Write keeps what fits.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	limit := b.limit
	if limit == 0 {
		limit = outputMax
	}
	b.buf.Write(p[:min(len(p), limit-b.buf.Len())])
	return len(p), nil
}

// String is what was kept.
func (b *boundedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
