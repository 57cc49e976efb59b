package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/logwriter"
)

// interactive reports whether the container has a console: input, or a
// terminal, whose output clients want before a line is whole.
func interactive(c *v1.Container) bool { return c.Stdin || c.TTY }

// consoleDir is where the console of a container is; empty without one.
func (w *worker) consoleDir(pod *v1.Pod, s *slot, id string) string {
	if !interactive(s.spec) {
		return ""
	}
	return filepath.Join(w.podDir(pod), "io", id)
}

func (w *worker) console(pod *v1.Pod, s *slot, inst *instance) logwriter.Console {
	return logwriter.Console{
		Dir: w.consoleDir(pod, s, inst.id), Log: LogPath(w.r.LogDir, pod, s.spec.Name, inst.attempt),
		Limits: w.r.LogLimits, TTY: s.spec.TTY, Input: s.spec.Stdin, InputOnce: s.spec.StdinOnce,
	}
}

// stdio is where the streams of a container's task go.
type stdio struct{ in, out, err string }

// openStdio gives a task its streams: a log writer that the shim starts, or
// for a container with input or a terminal a console, which we start.
func (w *worker) openStdio(pod *v1.Pod, s *slot, inst *instance) (stdio, error) {
	if !interactive(s.spec) {
		uri, err := logwriter.URI(w.r.LogWriter, LogPath(w.r.LogDir, pod, s.spec.Name, inst.attempt), w.r.LogLimits, w.rootID())
		return stdio{out: uri, err: uri}, err
	}
	c := w.console(pod, s, inst)
	inst.console = c.Dir
	if err := w.startConsole(c); err != nil {
		return stdio{}, err
	}
	in, out, errs := c.Pipes()
	return stdio{in, out, errs}, nil
}

// startConsole starts a console and reaps it.
func (w *worker) startConsole(c logwriter.Console) error {
	cmd, err := logwriter.StartConsole(w.r.LogWriter, c)
	if err != nil {
		return err
	}
	// It outlives the worker when the daemon stops, so nobody waits for this.
	go func() { _ = cmd.Wait() }()
	return nil
}

// dropConsole ends the console of a container that has ended or never ran.
func (w *worker) dropConsole(inst *instance) {
	if inst.console == "" {
		return
	}
	if err := logwriter.StopConsole(inst.console); err != nil {
		w.log.Warn("console of an ended container could not be removed", "container", inst.id, "error", err)
	}
}

// dropConsoles ends what consoles a pod still has.
func dropConsoles(podDir string) error {
	dirs, err := filepath.Glob(filepath.Join(podDir, "io", "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, logwriter.StopConsole(dir))
	}
	return errors.Join(errs...)
}

// adoptConsole starts the console of an adopted container again if it died,
// and ends the container's input if its one client left while no daemon was
// there to do so.
func (w *worker) adoptConsole(ctx context.Context, c logwriter.Console) {
	id := filepath.Base(c.Dir)
	closed, err := logwriter.InputClosed(c.Dir)
	if errors.Is(err, logwriter.ErrNoConsole) {
		if _, missing := os.Stat(c.Dir); missing != nil {
			return // of a version that had none
		}
		c.InputClosed = c.InputOnce
		err = w.startConsole(c)
		closed = c.InputClosed
	}
	if err != nil {
		w.log.Warn("console of a container could not be adopted", "container", id, "error", err)
		return
	}
	if closed && c.InputOnce && !c.TTY {
		w.r.closeInput(ctx, id)
	}
}

// closeInput tells the shim, which keeps the pipe open, that there will be no
// more input.
func (r *Runner) closeInput(ctx context.Context, id string) {
	_, err := r.Client.TaskService().CloseIO(ctx, &tasks.CloseIORequest{ContainerID: id, Stdin: true})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) && ctx.Err() == nil {
		r.Logger.Warn("input of a container could not be ended", "container", id, "error", err)
	}
}

// AttachRequest joins somebody to a running container's streams.
type AttachRequest struct {
	Ref      Ref
	In       io.Reader // may be nil
	Out, Err io.Writer // may be nil
	Resize   <-chan [2]uint16
}

// Attach lasts until the container's output ends, the client leaves or ctx
// ends. The container must have a console.
func (r *Runner) Attach(ctx context.Context, req AttachRequest) error {
	ctx, stop := context.WithCancel(namespaces.WithNamespace(ctx, r.Namespace))
	defer stop()
	c := logwriter.Client{Out: req.Out, Err: req.Err, InEnds: req.Ref.Spec.StdinOnce && !req.Ref.Spec.TTY}
	if req.Ref.Spec.Stdin {
		c.In = req.In
		c.InEnded = func() { r.closeInput(ctx, req.Ref.ID) }
	}
	if req.Ref.Spec.TTY && req.Resize != nil {
		go r.followTerminal(ctx, req.Ref.ID, req.Resize)
	}
	if err := logwriter.Attach(ctx, req.Ref.Console, c); err != nil {
		return fmt.Errorf("attach to container %s: %w", req.Ref.Name, err)
	}
	return nil
}

func (r *Runner) followTerminal(ctx context.Context, id string, sizes <-chan [2]uint16) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			// A size that cannot be set is no reason to end a session.
			_, _ = r.Client.TaskService().ResizePty(ctx, &tasks.ResizePtyRequest{ContainerID: id, Width: uint32(size[0]), Height: uint32(size[1])})
		}
	}
}
