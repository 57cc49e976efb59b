package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// found is a container of an earlier run.
type found struct {
	record  containers.Container
	process *task.Process // nil when it has no task
}

// discover lists what earlier runs left in our containerd namespace.
func (r *Runner) discover(ctx context.Context) error {
	records, err := r.Client.ContainerService().List(ctx, "labels."+strconv.Quote(labelPodUID))
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	running, err := r.Client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return fmt.Errorf("list tasks: %w", errgrpc.ToNative(err))
	}
	byID := map[string]*task.Process{}
	for _, p := range running.Tasks {
		id := p.ContainerID
		if id == "" {
			id = p.ID
		}
		byID[id] = p
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, record := range records {
		uid := types.UID(record.Labels[labelPodUID])
		r.found[uid] = append(r.found[uid], found{record, byID[record.ID]})
	}
	return nil
}

func (f found) attempt() int32 {
	n, _ := strconv.Atoi(f.record.Labels[labelAttempt])
	return int32(n)
}

// adopt takes over the pod's containers of earlier runs: the newest of each
// slot is its current one, older ones are cleaned up.
func (w *worker) adopt(pod *v1.Pod, before []found) {
	slices.SortFunc(before, func(a, b found) int { return int(a.attempt() - b.attempt()) })
	mains := false
	for _, s := range w.slots {
		w.fromStatus(pod, s)
		for _, f := range before {
			if f.record.Labels[labelContainer] != s.spec.Name {
				continue
			}
			if p := f.process; p != nil && p.Status == task.Status_CREATED {
				// The daemon died between create and start.
				w.jobs.Go(func() { w.r.killAndPurge(w.r.ctx, f.record.ID) })
				continue
			}
			if s.current != nil {
				w.retire(s)
			}
			s.current = w.instanceOf(pod, s, f)
			s.restarts = max(s.restarts, f.attempt())
			mains = mains || s.role == roleMain
		}
	}
	w.admitted = w.admitted || len(before) > 0
	for _, s := range w.slots {
		w.noteLost(pod, s)
	}
	for _, s := range w.slots {
		// The main containers run only after the init containers are done.
		if mains && s.role == roleInit && s.current == nil {
			s.done = true
		}
	}
	if terminal(pod.Status.Phase) {
		sent := pod.Status
		w.sent = &sent
	}
}

// fromStatus takes over what only the API remembers.
func (w *worker) fromStatus(pod *v1.Pod, s *slot) {
	all := pod.Status.ContainerStatuses
	if s.role != roleMain {
		all = pod.Status.InitContainerStatuses
	}
	for i := range all {
		cs := &all[i]
		if cs.Name != s.spec.Name {
			continue
		}
		s.restarts = cs.RestartCount
		s.last = cs.LastTerminationState.Terminated
		if t := cs.State.Terminated; t != nil && t.ExitCode == 0 && s.role == roleInit {
			s.done = true
		}
		if r := cs.State.Running; r != nil || cs.State.Terminated != nil {
			w.admitted = true
		}
	}
}

// noteLost counts an attempt that the API knows as running and containerd
// does not know at all, as after `stop --pods` or with a new containerd.
func (w *worker) noteLost(pod *v1.Pod, s *slot) {
	if s.current != nil || pod.DeletionTimestamp != nil {
		return
	}
	for _, cs := range append(append([]v1.ContainerStatus{}, pod.Status.ContainerStatuses...), pod.Status.InitContainerStatuses...) {
		if cs.Name != s.spec.Name || cs.State.Running == nil {
			continue
		}
		s.restarts++
		s.last = lost(cs.State.Running.StartedAt, cs.ContainerID)
	}
}

// lost is the end of a container nobody saw end.
func lost(started metav1.Time, id string) *v1.ContainerStateTerminated {
	return &v1.ContainerStateTerminated{
		ExitCode: 137, Reason: "ContainerStatusUnknown", Message: "The container could not be located when the daemon restarted",
		StartedAt: started, FinishedAt: timeOf(now()), ContainerID: id,
	}
}

func (w *worker) instanceOf(pod *v1.Pod, s *slot, f found) *instance {
	inst := &instance{
		id: f.record.ID, attempt: f.attempt(), pidfd: -1, startedAt: f.record.CreatedAt,
		imageName: f.record.Labels[labelImage], imageID: f.record.Labels[labelImageID], stopSig: unix.SIGTERM,
	}
	if at, ok := startedAt(pod, s, inst.id); ok {
		inst.startedAt = at
	}
	if text := f.record.Labels[labelExit]; text != "" {
		var t v1.ContainerStateTerminated
		if json.Unmarshal([]byte(text), &t) == nil {
			inst.exit = &t
		}
	}
	p := f.process
	if inst.exit == nil && p == nil {
		inst.exit = lost(timeOf(inst.startedAt), "containerd://"+inst.id)
	}
	if p != nil && inst.exit == nil {
		inst.pid = int(p.Pid)
		if fd, err := unix.PidfdOpen(inst.pid, 0); err == nil && p.Status == task.Status_RUNNING {
			inst.pidfd = fd
		}
		s.started, s.ready = readyBefore(pod, s)
	}
	return inst
}

// readyBefore is what the API last heard of the container.
func readyBefore(pod *v1.Pod, s *slot) (started, ready bool) {
	all := append(append([]v1.ContainerStatus{}, pod.Status.ContainerStatuses...), pod.Status.InitContainerStatuses...)
	for _, cs := range all {
		if cs.Name == s.spec.Name {
			return cs.Started == nil || *cs.Started, cs.Ready
		}
	}
	return s.spec.StartupProbe == nil, s.spec.ReadinessProbe == nil
}

func startedAt(pod *v1.Pod, s *slot, id string) (time.Time, bool) {
	all := append(append([]v1.ContainerStatus{}, pod.Status.ContainerStatuses...), pod.Status.InitContainerStatuses...)
	for _, cs := range all {
		if cs.ContainerID == "containerd://"+id && cs.State.Running != nil {
			return cs.State.Running.StartedAt.Time, true
		}
	}
	return time.Time{}, false
}

// resume starts the probes of adopted containers, once the pod's address is
// known again.
func (w *worker) resume(pod *v1.Pod) {
	for _, s := range w.slots {
		if !s.resume {
			continue
		}
		s.resume = false
		if !s.running() {
			continue
		}
		ready, started := s.ready, s.started
		w.up(pod, s)
		// What was ready stays so until its probe says otherwise.
		s.ready, s.started, s.probed = ready, started, ready
	}
}

// watchAdopted waits for the exits of what was adopted running.
func (w *worker) watchAdopted(ctx context.Context) {
	for _, s := range w.slots {
		if !s.running() {
			continue
		}
		w.watchExit(w.r.ctx, s, s.current)
		s.resume = true
	}
}

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
	errs = append(errs, r.sweepSandboxes(ctx, known), r.sweepSnapshots(ctx, known), r.sweepLogs(known))
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

// sweepLogs removes the logs of pods that are no more.
func (r *Runner) sweepLogs(known map[string]bool) error {
	entries, err := os.ReadDir(r.LogDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list logs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		uid, ok := logUID(e.Name())
		if ok && !known[uid] {
			errs = append(errs, os.RemoveAll(filepath.Join(r.LogDir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
