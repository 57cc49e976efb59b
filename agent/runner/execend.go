package runner

import (
	"context"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
)

const (
	// execEnd bounds one attempt to end a command's process, and the wait of
	// its caller for that.
	execEnd = 10 * time.Second
	// execRetryFirst and execRetryMax bound the wait before the next attempt.
	execRetryFirst = 10 * time.Millisecond
	execRetryMax   = time.Second
)

// endExec takes a command's process away, and kills it if it may still run; then
// it calls release. It waits for no longer than execEnd; what takes longer, as with
// a shim that hangs, goes on behind it until the process is gone, its container is,
// or the runner ends.
func (r *Runner) endExec(ctx context.Context, container string, p containerd.Process, mayRun bool, release func()) {
	first, cancel := context.WithTimeout(context.WithoutCancel(ctx), execEnd)
	defer cancel()
	if r.tryEndExec(first, container, p.ID(), mayRun) || !r.behind(func(ctx context.Context) {
		r.Logger.Warn("a command that was to end does not yet: it is killed until it does", "container", container, "command", p.ID())
		r.tryEndExec(ctx, container, p.ID(), true)
		release()
	}) {
		release()
	}
}

// behind does something that Run waits for, unless Run has been told to end.
func (r *Runner) behind(do func(ctx context.Context)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil || r.ctx.Err() != nil {
		return false
	}
	ctx := r.ctx
	r.wg.Go(func() { do(ctx) })
	return true
}

// tryEndExec reports whether nothing is left of the process when it returns, or
// ctx ended before. It goes by what the shim says and not by what the call to
// start it gave: who left before that was answered knows no number.
func (r *Runner) tryEndExec(ctx context.Context, container, id string, mayRun bool) bool {
	for wait := execRetryFirst; ; wait = min(2*wait, execRetryMax) {
		if mayRun {
			r.killExec(ctx, container, id)
		}
		// This fails while the process runs, also of one that is just starting.
		short, cancel := context.WithTimeout(ctx, execEnd)
		_, err := r.Client.TaskService().DeleteProcess(short, &tasks.DeleteProcessRequest{ContainerID: container, ExecID: id})
		cancel()
		if err = errgrpc.ToNative(err); err == nil || errdefs.IsNotFound(err) {
			return true
		}
		mayRun = true
		if !pause(ctx, wait) {
			return false
		}
	}
}

// killExec sends SIGKILL to a command and to all of its session.
func (r *Runner) killExec(ctx context.Context, container, id string) {
	ctx, cancel := context.WithTimeout(ctx, execEnd)
	defer cancel()
	got, err := r.Client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: container, ExecID: id})
	// The number of one that has ended may be another's by now.
	if err == nil && got.Process.Status == task.Status_RUNNING {
		killSession(int(got.Process.Pid))
	}
	_, _ = r.Client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: container, ExecID: id, Signal: uint32(unix.SIGKILL)})
}

// closeIO closes our ends of a command's pipes and removes them.
func closeIO(p containerd.Process) {
	if streams := p.IO(); streams != nil {
		streams.Cancel()
		streams.Wait()
		_ = streams.Close()
	}
}
