package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// orphanGrace is the most a container without a pod gets between its stop
// signal and its end by force: nobody waits for its answers any more.
const orphanGrace = 5 * time.Second

// sweep cleans up what belongs to no pod. Pods come meanwhile: whether one lives
// is asked after something of it was found, as its worker is there first.
func (r *Runner) sweep(ctx context.Context) error {
	return errors.Join(r.sweepPods(ctx, r.lives), r.logs.sweep(r.LogDir, r.lives))
}

// lives reports whether a pod has a worker.
func (r *Runner) lives(uid string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.workers[types.UID(uid)] != nil
}

// nobody lives when all pods are to go.
func nobody(string) bool { return false }

// sweepPods removes everything but logs of pods that do not live.
func (r *Runner) sweepPods(ctx context.Context, lives func(uid string) bool) error {
	r.mu.Lock()
	orphans := r.found
	r.found = map[types.UID][]found{}
	r.mu.Unlock()
	var g errgroup.Group
	errs := make(chan error, len(orphans))
	for uid, list := range orphans {
		g.Go(func() error {
			errs <- r.removeOrphan(ctx, string(uid), list)
			return nil
		})
	}
	_ = g.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(append(all, r.sweepSandboxes(ctx, lives), r.sweepSnapshots(ctx, lives))...)
}

// removeOrphan stops and removes all containers of a pod that is no more.
func (r *Runner) removeOrphan(ctx context.Context, uid string, list []found) error {
	var ids []string
	var running sync.WaitGroup
	for _, f := range list {
		ids = append(ids, f.record.ID)
		if f.process != nil {
			running.Go(func() { r.endTask(ctx, f) })
		}
	}
	running.Wait()
	if err := acquire(ctx, r.stops); err != nil {
		return err
	}
	defer func() { <-r.stops }()
	return r.takeDown(ctx, orphanPod(r, uid), ids)
}

// endTask asks a container to end, waits as long as its pod would have, and
// not longer than orphanGrace, and then ends it.
func (r *Runner) endTask(ctx context.Context, f found) {
	wait := orphanGrace
	if n, err := strconv.Atoi(f.record.Labels[labelGrace]); err == nil {
		wait = min(time.Duration(n)*time.Second, orphanGrace)
	}
	short, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if f.process.Status == task.Status_RUNNING {
		_, err := r.Client.TaskService().Kill(short, &tasks.KillRequest{ContainerID: f.record.ID, Signal: uint32(unix.SIGTERM)})
		if err == nil {
			_, _ = r.Client.TaskService().Wait(short, &tasks.WaitRequest{ContainerID: f.record.ID})
		}
	}
	r.killTask(ctx, f.record.ID)
}

// killTask kills everything in a container and waits for its end.
func (r *Runner) killTask(ctx context.Context, id string) {
	_, _ = r.Client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(unix.SIGKILL), All: true})
	_, _ = r.Client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id})
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
func (r *Runner) sweepSandboxes(ctx context.Context, lives func(uid string) bool) error {
	left := map[string]bool{}
	attached, err := r.Network.Attached(ctx)
	if err != nil {
		return fmt.Errorf("list attached pods: %w", err)
	}
	pinned, err := r.pins.list()
	if err != nil {
		return err
	}
	for _, uid := range slices.Concat(attached, pinned, r.Volumes.Leftovers()) {
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
		if !lives(uid) {
			errs = append(errs, r.takeDown(ctx, orphanPod(r, uid), nil))
		}
	}
	return errors.Join(errs...)
}

// sweepSnapshots removes root file systems that no container came to use.
func (r *Runner) sweepSnapshots(ctx context.Context, lives func(uid string) bool) error {
	return r.removeSnapshots(ctx, func(uid, _ string) bool { return !lives(uid) })
}

// removeSnapshots removes the root file systems of pods that are stale, which
// is told the pod's uid and the snapshot's key.
func (r *Runner) removeSnapshots(ctx context.Context, isStale func(uid, key string) bool) error {
	service := r.Client.SnapshotService(r.Snapshotter)
	var stale []string
	err := service.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if uid := info.Labels[labelPodUID]; uid != "" && isStale(uid, info.Name) {
			stale = append(stale, info.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list root file systems: %w", err)
	}
	var errs []error
	for _, key := range stale {
		if err := service.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove root file system %s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}
