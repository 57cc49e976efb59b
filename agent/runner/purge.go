package runner

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// purgeKill bounds the end of a task that should have ended.
const purgeKill = 10 * time.Second

// remember notes the id of a container or of a root file system that may exist
// from now on, until it was taken away. The pod's end takes what is left, so
// that nothing stays because one attempt to remove it failed.
func (w *worker) remember(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made = append(w.made, id)
}

// purged notes that nothing is left of the ids.
func (w *worker) purged(ids ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made = slices.DeleteFunc(w.made, func(id string) bool { return slices.Contains(ids, id) })
}

// leftovers are the ids of everything made for the pod's containers.
func (w *worker) leftovers() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.made)
}

// discard removes everything of a container that did not come to run, or has
// ended.
func (w *worker) discard(ctx context.Context, id string) {
	err := w.r.purge(ctx, id)
	if err == nil {
		w.purged(id)
		return
	}
	if ctx.Err() == nil {
		w.log.Warn("container cannot be removed before its pod ends", "container", id, "error", err)
	}
}

// purge deletes a container: task, record, snapshot. What is not there is
// fine. A task that has not ended is killed: containerd may have gone on making
// one that a daemon which died had asked for.
func (r *Runner) purge(ctx context.Context, id string) error {
	if err := r.deleteTask(ctx, id); err != nil {
		short, cancel := context.WithTimeout(ctx, purgeKill)
		r.killTask(short, id)
		cancel()
		if err := r.deleteTask(ctx, id); err != nil {
			return fmt.Errorf("delete task %s: %w", id, err)
		}
	}
	if err := r.Client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete container %s: %w", id, err)
	}
	if err := r.Client.SnapshotService(r.Snapshotter).Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove root file system %s: %w", id, err)
	}
	return r.vault.Remove(id)
}

func (r *Runner) deleteTask(ctx context.Context, id string) error {
	_, err := r.Client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}
