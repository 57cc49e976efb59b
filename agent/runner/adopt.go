package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
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
	known := map[string]bool{}
	for _, record := range records {
		known[record.ID] = true
	}
	if err := r.vault.Keep(known); err != nil {
		return err
	}
	// One that was prepared ahead, of a container that was never made. Nobody
	// prepares any before discover returns.
	if err := r.removeSnapshots(ctx, func(_, key string) bool { return !known[key] }); err != nil {
		return err
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
	if at, ok := startedAt(pod, inst.id); ok {
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

func startedAt(pod *v1.Pod, id string) (time.Time, bool) {
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
		// What was ready stays so until its probe says otherwise. What the API had
		// not heard of, because the daemon died in between, is as up says: without
		// a probe nothing would ever say it again.
		s.ready, s.started, s.probed = s.ready || ready, s.started || started, s.probed || ready
	}
}

// watchAdopted waits for the exits of what was adopted running.
func (w *worker) watchAdopted() {
	for _, s := range w.slots {
		if !s.running() {
			continue
		}
		w.watchExit(w.r.ctx, s, s.current)
		s.resume = true
	}
}
