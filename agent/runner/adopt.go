package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
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
	processes, err := r.processesOf(ctx, records)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, record := range records {
		known[record.ID] = true
	}
	if err := r.vault.Keep(known); err != nil {
		return err
	}
	// Of commands that an earlier daemon ran; it was killed before they ended.
	if err := os.RemoveAll(r.fifoDir()); err != nil {
		return fmt.Errorf("remove pipes of earlier commands: %w", err)
	}
	// Before a pod's next container could be given to one.
	r.endStrays(ctx, sinceBoot())
	// Nothing starts yet that could need them.
	if err := r.pins.unstagePods(); err != nil {
		return err
	}
	// One that was prepared ahead, of a container that was never made. Nobody
	// prepares any before discover returns.
	if err := r.removeSnapshots(ctx, func(_, key string) bool { return !known[key] }); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, record := range records {
		uid := types.UID(record.Labels[labelPodUID])
		r.found[uid] = append(r.found[uid], found{record, processes[i]})
	}
	return nil
}

// statesAtOnce is how many shims are asked at a time how their containers are.
const statesAtOnce = 64

// processesOf asks for the records' tasks, nil for one that has none. Listing
// them would have containerd ask one shim after another, and wait 2 s for each
// that hangs. Such a one's container may well run, so its state is unknown.
func (r *Runner) processesOf(ctx context.Context, records []containers.Container) ([]*task.Process, error) {
	out := make([]*task.Process, len(records))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(statesAtOnce)
	for i := range records {
		g.Go(func() (err error) {
			if out[i], err = r.processOf(ctx, records[i].ID); err != nil {
				return fmt.Errorf("ask for the task of container %s: %w", records[i].ID, err)
			}
			return nil
		})
	}
	return out, g.Wait()
}

func (r *Runner) processOf(ctx context.Context, id string) (*task.Process, error) {
	got, err := r.Client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	switch err = errgrpc.ToNative(err); {
	case err == nil:
		return got.Process, nil
	case errdefs.IsNotFound(err):
		return nil, nil
	case errdefs.IsDeadlineExceeded(err) && ctx.Err() == nil:
		return &task.Process{ID: id, Status: task.Status_UNKNOWN}, nil
	case errdefs.IsUnavailable(err) && ctx.Err() == nil:
		// Of the shim, if containerd answers: then there is none any more.
		if _, down := r.Client.Version(ctx); down == nil {
			return nil, nil
		}
	}
	return nil, err
}

func (f found) attempt() int32 {
	n, _ := strconv.Atoi(f.record.Labels[labelAttempt])
	return int32(n)
}

// adopt takes over the pod's containers of earlier runs: the newest of each
// slot is its current one, older ones are cleaned up.
func (w *worker) adopt(pod *v1.Pod, before []found) {
	slices.SortFunc(before, func(a, b found) int { return int(a.attempt() - b.attempt()) })
	for _, f := range before {
		w.remember(f.record.ID)
	}
	for _, s := range w.slots {
		w.fromStatus(pod, s)
		for _, f := range before {
			if f.record.Labels[labelContainer] == s.spec.Name {
				w.adoptOne(pod, s, f)
			}
		}
	}
	defer w.dropRetired()
	w.admitted = w.admitted || len(before) > 0
	begun := w.begun()
	for _, s := range w.slots {
		w.noteLost(pod, s)
		// The main containers run only after the init containers are done.
		if begun && s.role == roleInit && s.current == nil {
			s.done = true
		}
	}
	if terminal(pod.Status.Phase) {
		sent := pod.Status
		w.sent = &sent
		return
	}
	w.beginAnew(pod)
	w.adoptRestart(pod)
}

func (w *worker) adoptOne(pod *v1.Pod, s *slot, f found) {
	if p := f.process; p != nil && p.Status == task.Status_CREATED {
		// The daemon died between create and start.
		w.jobs.Go(func() { w.discard(w.r.ctx, f.record.ID) })
		return
	}
	if s.current != nil {
		w.retire(s)
	}
	s.current = w.instanceOf(pod, s, f)
	s.restarts = max(s.restarts, f.attempt())
	if n, err := strconv.Atoi(f.record.Labels[labelBackoff]); err == nil {
		s.crash = backoff{time.Duration(n) * time.Second, f.record.CreatedAt}
	}
}

// beginAnew is for a sandbox that is no more, as after a reboot: the pod begins
// with its first init container again, unless it is not restarted at all.
func (w *worker) beginAnew(pod *v1.Pod) {
	if w.r.pins.have(string(pod.UID)) || slices.ContainsFunc(w.slots, (*slot).running) || !w.continues(pod) {
		return
	}
	for _, s := range w.slots {
		switch {
		case s.role == roleEphemeral:
		case s.current == nil:
			if cs := known(pod, s.role, s.spec.Name); cs != nil && cs.State.Terminated != nil {
				s.done = false
				s.restarts++
				s.last = cs.State.Terminated
			}
		case s.role == roleMain && !s.restartable(pod):
			s.current.old = true
		default:
			s.done = false
			s.retryAt = s.crash.until(s.current.exit.FinishedAt.Time)
			s.restarts = s.attempt()
			w.retire(s)
			s.current = nil
		}
	}
}

// continues reports whether some main container will run again.
func (w *worker) continues(pod *v1.Pod) bool {
	if pod.Spec.RestartPolicy == v1.RestartPolicyNever && slices.ContainsFunc(w.slots, func(s *slot) bool { return s.current != nil }) {
		return false
	}
	return slices.ContainsFunc(w.slots, func(s *slot) bool { return s.role == roleMain && s.restartable(pod) })
}

// adoptRestart goes on with a restart of all containers that was cut short.
func (w *worker) adoptRestart(pod *v1.Pod) {
	_, c := podutil.GetPodCondition(&pod.Status, v1.AllContainersRestarting)
	w.restartingAll = (c != nil && c.Status == v1.ConditionTrue) || slices.ContainsFunc(w.slots, (*slot).restartsAll)
}

// fromStatus takes over what only the API remembers.
func (w *worker) fromStatus(pod *v1.Pod, s *slot) {
	cs := known(pod, s.role, s.spec.Name)
	if cs == nil {
		return
	}
	s.restarts = cs.RestartCount
	s.last = cs.LastTerminationState.Terminated
	if t := cs.State.Terminated; t != nil && (s.role == roleEphemeral || (t.ExitCode == 0 && s.role == roleInit)) {
		s.done = true
	}
	if cs.State.Running != nil || cs.State.Terminated != nil {
		w.admitted = true
	}
}

// noteLost counts an attempt that the API knows as running and containerd
// does not know at all, as after `stop --pods` or with a new containerd.
func (w *worker) noteLost(pod *v1.Pod, s *slot) {
	if s.current != nil || pod.DeletionTimestamp != nil {
		return
	}
	cs := known(pod, s.role, s.spec.Name)
	if cs == nil || cs.State.Running == nil {
		return
	}
	if s.role == roleEphemeral {
		// It never runs again.
		s.current = &instance{id: strings.TrimPrefix(cs.ContainerID, containerID("")), pidfd: -1, cleaned: true, imageName: cs.Image, imageID: cs.ImageID, exit: lost(cs.State.Running.StartedAt, cs.ContainerID)}
		return
	}
	s.restarts++
	s.last = lost(cs.State.Running.StartedAt, cs.ContainerID)
}

// lost is the end of a container nobody saw end.
func lost(started metav1.Time, id string) *v1.ContainerStateTerminated {
	return &v1.ContainerStateTerminated{
		ExitCode: 137, Reason: "ContainerStatusUnknown", Message: "The container could not be located when the daemon restarted",
		StartedAt: started, FinishedAt: timeOf(now()), ContainerID: id,
	}
}

func (w *worker) instanceOf(pod *v1.Pod, s *slot, f found) *instance {
	labels := f.record.Labels
	inst := &instance{
		id: f.record.ID, attempt: f.attempt(), pidfd: -1, startedAt: f.record.CreatedAt, asked: labels[labelAsked],
		imageName: labels[labelImage], imageID: labels[labelImageID], stopSig: stopSignal(labels[labelStop]),
		console: w.consoleDir(pod, s, f.record.ID),
	}
	w.adoptResources(pod, s, inst)
	cs := known(pod, s.role, s.spec.Name)
	if cs != nil && cs.ContainerID == containerID(inst.id) {
		inst.user = cs.User
		if cs.State.Running != nil {
			inst.startedAt = cs.State.Running.StartedAt.Time
		}
	}
	if inst.user == nil {
		inst.user = recordedUser(f.record.Spec)
	}
	if text := labels[labelExit]; text != "" {
		var t v1.ContainerStateTerminated
		if json.Unmarshal([]byte(text), &t) == nil {
			inst.exit = &t
		}
	}
	p := f.process
	if inst.exit == nil && p == nil {
		inst.exit = lost(timeOf(inst.startedAt), containerID(inst.id))
	}
	if p != nil && inst.exit == nil {
		inst.pid = int(p.Pid)
		if fd, err := unix.PidfdOpen(inst.pid, 0); err == nil && p.Status == task.Status_RUNNING {
			inst.pidfd = fd
		}
		s.started, s.ready = s.spec.StartupProbe == nil, s.spec.ReadinessProbe == nil
		if cs != nil {
			s.started, s.ready = cs.Started == nil || *cs.Started, cs.Ready
		}
	}
	return inst
}

// containerID is a container's id in a status.
func containerID(id string) string { return "containerd://" + id }

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
		w.beginProbes(pod, s, true)
	}
}

// watchAdopted waits for the exits of what was adopted running.
func (w *worker) watchAdopted() {
	pod := w.newest()
	for _, s := range w.slots {
		if !s.running() {
			continue
		}
		w.watchExit(w.r.ctx, s, s.current)
		s.resume = true
		if interactive(s.spec) {
			c := w.console(pod, s, s.current)
			w.jobs.Go(func() { w.adoptConsole(w.r.ctx, c) })
		}
	}
}
