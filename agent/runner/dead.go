package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	v1 "k8s.io/api/core/v1"
)

// Of ended containers the runner keeps what the kubelet does: per container of a
// pod that has not ended, the last attempt with what it wrote, and the log of
// the one before (`logs --previous`). Everything else goes as soon as it is
// replaced, so there is no total to bound.

// CollectDead takes away the root file systems of containers that have ended, in
// pods that go on: what they wrote there is lost, their state and logs are not.
func (r *Runner) CollectDead(ctx context.Context) error {
	ctx = namespaces.WithNamespace(ctx, r.Namespace)
	r.mu.Lock()
	all := make([]*worker, 0, len(r.workers))
	for _, w := range r.workers {
		all = append(all, w)
	}
	r.mu.Unlock()
	var errs []error
	for _, w := range all {
		for _, inst := range w.dead(ctx) {
			w.deleteTask(ctx, inst)
			errs = append(errs, r.dropRoot(ctx, inst.id))
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// dead asks the worker for its ended containers. Their tasks are the caller's to
// delete then.
func (w *worker) dead(ctx context.Context) []*instance {
	answer := make(chan []*instance, 1)
	w.tell(func(w *worker) {
		var out []*instance
		for _, s := range w.slots {
			if i := s.current; i != nil && i.exit != nil && w.stop == nil {
				i.cleaned = true
				out = append(out, i)
			}
		}
		answer <- out
	})
	select {
	case out := <-answer:
		return out
	case <-w.ended:
	case <-ctx.Done():
	}
	return nil
}

func (r *Runner) dropRoot(ctx context.Context, id string) error {
	err := r.Client.SnapshotService(r.Snapshotter).Remove(ctx, id)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove root file system of ended container %s: %w", id, err)
	}
	return nil
}

// dropLogs removes the logs of attempts older than the one before attempt.
func (w *worker) dropLogs(pod *v1.Pod, s *slot, attempt int32) {
	if attempt < 2 {
		return
	}
	dir := filepath.Join(LogDir(w.r.LogDir, pod), s.spec.Name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		// "3.log", and of rotated ones "3.log.20260102-030405".
		number, _, ok := strings.Cut(e.Name(), ".log")
		if n, err := strconv.Atoi(number); ok && err == nil && int32(n) < attempt-1 {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				w.log.Warn("log of an ended container could not be removed", "file", e.Name(), "error", err)
			}
		}
	}
}
