package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// sweep cleans up what belongs to no pod.
func (r *Runner) sweep(ctx context.Context) error {
	r.mu.Lock()
	orphans := r.found
	r.found = map[types.UID][]found{}
	known := map[string]bool{}
	for uid := range r.workers {
		known[string(uid)] = true
	}
	r.mu.Unlock()
	var errs []error
	for uid, list := range orphans {
		errs = append(errs, r.removeOrphan(ctx, string(uid), list))
	}
	errs = append(errs, r.sweepSandboxes(ctx, known), r.sweepSnapshots(ctx, known), r.logs.sweep(r.LogDir, known))
	return errors.Join(errs...)
}

// removeOrphan kills and removes all containers of a pod that is no more.
func (r *Runner) removeOrphan(ctx context.Context, uid string, list []found) error {
	var ids []string
	for _, f := range list {
		if f.process != nil {
			r.killTask(ctx, f.record.ID)
		}
		ids = append(ids, f.record.ID)
	}
	return r.takeDown(ctx, orphanPod(r, uid), ids)
}

// killTask kills everything in a container and waits for its end.
func (r *Runner) killTask(ctx context.Context, id string) {
	_, _ = r.Client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(unix.SIGKILL), All: true})
	_, _ = r.Client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id})
}

func (r *Runner) killAndPurge(ctx context.Context, id string) {
	r.killTask(ctx, id)
	if err := r.purge(ctx, id); err != nil && ctx.Err() == nil {
		r.Logger.Warn("container that was never started could not be removed", "container", id, "error", err)
	}
}

// orphanPod stands for a pod of which only the uid is known.
func orphanPod(r *Runner, uid string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}}
	pod.Status.QOSClass = v1.PodQOSBestEffort
	if class, ok := r.Cgroups.Pods()[uid]; ok {
		pod.Status.QOSClass = class
	}
	return pod
}

// sweepSandboxes removes networks, groups, pins and directories that were
// left without containers.
func (r *Runner) sweepSandboxes(ctx context.Context, known map[string]bool) error {
	left := map[string]bool{}
	attached, err := r.Network.Attached(ctx)
	if err != nil {
		return fmt.Errorf("list attached pods: %w", err)
	}
	pinned, err := r.pins.list()
	if err != nil {
		return err
	}
	for _, uid := range append(attached, pinned...) {
		left[uid] = true
	}
	for uid := range r.Cgroups.Pods() {
		left[uid] = true
	}
	entries, _ := os.ReadDir(filepath.Join(r.DataDir, "pods"))
	for _, e := range entries {
		left[e.Name()] = true
	}
	var errs []error
	for uid := range left {
		if !known[uid] {
			errs = append(errs, r.takeDown(ctx, orphanPod(r, uid), nil))
		}
	}
	return errors.Join(errs...)
}

// sweepSnapshots removes root file systems that no container came to use.
func (r *Runner) sweepSnapshots(ctx context.Context, known map[string]bool) error {
	service := r.Client.SnapshotService(r.Snapshotter)
	var stale []string
	err := service.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if uid := info.Labels[labelPodUID]; uid != "" && !known[uid] {
			stale = append(stale, info.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list root file systems: %w", err)
	}
	var errs []error
	for _, key := range stale {
		errs = append(errs, service.Remove(ctx, key))
	}
	return errors.Join(errs...)
}
