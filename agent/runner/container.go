package runner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/cgroup"
	"shoal/agent/oci"
	"shoal/agent/secretspec"
)

type mountSpec = types.Mount

// Labels on containers and snapshots, so that any later daemon knows whose
// they are. The first four are what container tools expect.
const (
	labelPodUID    = "io.kubernetes.pod.uid"
	labelPodName   = "io.kubernetes.pod.name"
	labelPodNS     = "io.kubernetes.pod.namespace"
	labelContainer = "io.kubernetes.container.name"
	labelAttempt   = "shoal.container/attempt"
	labelExit      = "shoal.container/exit"
	labelImage     = "shoal.container/image"
	labelImageID   = "shoal.container/image-id"
	labelGrace     = "shoal.container/grace-seconds"
	labelAsked     = "shoal.container/image-asked"
	labelBackoff   = "shoal.container/backoff-seconds"
	labelStop      = "shoal.container/stop-signal"
	// labelRoot keeps a snapshot that no container record names yet from
	// containerd's garbage collector. It is removed with the container.
	labelRoot = "containerd.io/gc.root"
)

// startTimeout bounds one container's creation once begun; it is never
// cut short by a pod's deletion, which would leave half a container.
const startTimeout = 2 * time.Minute

// startError is a failed start with the reason a status shows.
type startError struct {
	reason string
	err    error
	ran    bool // the runtime tried: this counts as an attempt
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// asStartError keeps a reason that err has already.
func asStartError(reason string, err error) error {
	if failed := (*startError)(nil); errors.As(err, &failed) {
		return failed
	}
	return &startError{reason: reason, err: err}
}

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// snapshot makes a new root file system for s. Once asked for, it is waited for:
// one that is made after nobody listens any more would stay for good.
func (w *worker) snapshot(ctx context.Context, pod *v1.Pod, s *slot) (*prepared, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	id := newID()
	w.remember(id)
	mounts, err := w.r.Client.SnapshotService(w.r.Snapshotter).Prepare(ctx, id, s.image.ChainID, snapshots.WithLabels(map[string]string{
		labelRoot: "true", labelPodUID: string(pod.UID),
	}))
	if errdefs.IsNotFound(err) {
		w.r.Images.Forget(s.image)
		if s.image, err = w.r.Images.Get(ctx, s.spec.Image); err == nil {
			mounts, err = w.r.Client.SnapshotService(w.r.Snapshotter).Prepare(ctx, id, s.image.ChainID, snapshots.WithLabels(map[string]string{
				labelRoot: "true", labelPodUID: string(pod.UID),
			}))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("prepare root file system: %w", err)
	}
	p := &prepared{id: id}
	for _, m := range mounts {
		p.mounts = append(p.mounts, mountSpec{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return p, nil
}

// start makes and starts the next attempt of s.
func (w *worker) start(ctx context.Context, pod *v1.Pod, s *slot) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	if s.role == roleEphemeral { // the others' were made with the pod's
		if err := w.makeLogDir(pod, s); err != nil {
			return &startError{reason: reasonCreateError, err: err}
		}
		if err := w.makeVolumes(ctx, pod, s); err != nil {
			return &startError{reason: reasonConfigError, err: err}
		}
	}
	p := s.prepared
	s.prepared = nil
	if p == nil {
		var err error
		if p, err = w.snapshot(ctx, pod, s); err != nil {
			return &startError{reason: reasonCreateError, err: err}
		}
	}
	inst := &instance{
		id: p.id, attempt: s.attempt(), pidfd: -1, asked: s.spec.Image,
		imageID: s.image.ID, imageName: s.image.Name, stopSig: stopSignalOf(s.spec, s.image.Config.StopSignal),
		resources: s.spec.Resources, limits: cgroup.ForContainer(pod, s.spec),
	}
	if w.box.users != nil {
		defer w.unstage(pod, p.id) // the container has its own by then
	}
	crash := s.crash
	if s.current != nil {
		crash.next(s.current.exit.FinishedAt.Time, now())
	}
	record, err := w.createRecord(ctx, pod, s, p, inst, crash)
	if err != nil {
		w.discard(ctx, p.id)
		return err
	}
	w.event(pod, s, v1.EventTypeNormal, "Created", "Container created")
	tried, err := w.runTask(ctx, pod, s, record, p, inst)
	err = p.redact(err)
	if !tried {
		w.discard(ctx, p.id)
		w.dropConsole(inst)
		return &startError{reason: reasonRunError, err: err}
	}
	s.restarts, s.crash, s.retries, s.retryAt = inst.attempt, crash, 0, time.Time{}
	// Ended attempts go only now: while one is there the pod's shim lives,
	// and this start needed no new one.
	w.retire(s)
	w.dropRetired()
	w.dropEnded()
	w.dropLogs(pod, s, inst.attempt)
	if err != nil {
		w.failedStart(s, inst, err)
		w.discard(ctx, p.id)
		w.dropConsole(inst)
		return &startError{reason: reasonRunError, err: err, ran: true}
	}
	s.current = inst
	w.watchExit(w.r.ctx, s, inst)
	w.event(pod, s, v1.EventTypeNormal, "Started", "Container started")
	w.postStart(pod, s)
	if !s.hookPending {
		s.waiting = v1.ContainerStateWaiting{}
	}
	return nil
}

// attempt is the number of the slot's next attempt.
func (s *slot) attempt() int32 {
	if s.current == nil {
		return s.restarts
	}
	return s.restarts + 1
}

// retire puts the attempt before away: its end stays as the last state, its
// record and task until dropRetired.
func (w *worker) retire(s *slot) {
	old := s.current
	if old == nil {
		return
	}
	s.last = old.exit
	w.retired = append(w.retired, old)
}

// dropRetired removes the attempts that were put away.
func (w *worker) dropRetired() {
	for _, old := range w.retired {
		w.jobs.Go(func() {
			w.discard(w.r.ctx, old.id)
			w.dropConsole(old)
		})
	}
	w.retired = nil
}

// dropEnded deletes the tasks of other containers that have ended.
func (w *worker) dropEnded() {
	for _, s := range w.slots {
		inst := s.current
		if inst == nil || inst.exit == nil || inst.cleaned {
			continue
		}
		inst.cleaned = true
		w.jobs.Go(func() { w.deleteTask(w.r.ctx, inst) })
	}
}

// createRecord writes the container and its specification to containerd.
func (w *worker) createRecord(ctx context.Context, pod *v1.Pod, s *slot, p *prepared, inst *instance, crash backoff) (*containers.Container, error) {
	env, err := w.environment(ctx, pod, s.spec)
	if err != nil {
		return nil, &startError{reason: reasonConfigError, err: err}
	}
	use, err := w.devices(ctx, pod, s.spec)
	if err != nil {
		return nil, &startError{reason: reasonConfigError, err: err}
	}
	mounts, err := w.mounts(pod, s.spec, env)
	if err != nil {
		return nil, asStartError(reasonConfigError, err)
	}
	record := &containers.Container{
		ID: p.id, Image: s.image.Name, Snapshotter: w.r.Snapshotter, SnapshotKey: p.id,
		Labels: map[string]string{
			labelPodUID: string(pod.UID), labelPodName: pod.Name, labelPodNS: pod.Namespace,
			labelContainer: s.spec.Name, labelAttempt: strconv.Itoa(int(inst.attempt)),
			labelImage: s.image.Name, labelImageID: s.image.ID,
			labelGrace: strconv.Itoa(int(grace(pod).Seconds())),
			labelAsked: s.spec.Image, labelBackoff: strconv.Itoa(int(crash.wait.Seconds())),
			labelStop: strconv.Itoa(int(inst.stopSig)),
		},
	}
	if mounts, err = w.mapMounts(pod, s.spec, p, deviceMounts(use, mounts)); err != nil {
		return nil, asStartError(reasonCreateError, err)
	}
	hidden := secretspec.NewHidden()
	p.hidden = hidden
	spec, err := w.spec(ctx, pod, s, record, deviceEnv(use, env), mounts, hidden)
	if err == nil {
		err = addDevices(ctx, w.r.CDIDirs, use, spec)
	}
	if errors.Is(err, oci.ErrCreate) {
		return nil, &startError{reason: reasonCreateError, err: err}
	}
	if err != nil {
		return nil, &startError{reason: reasonConfigError, err: err}
	}
	if record.Runtime, err = w.runtimeOf(ctx, pod, p.id, spec, hidden); err != nil {
		return nil, &startError{reason: reasonCreateError, err: err}
	}
	inst.user = userOf(spec)
	if record.Spec, err = typeurl.MarshalAny(spec); err != nil {
		return nil, &startError{reason: reasonCreateError, err: fmt.Errorf("encode container specification: %w", err)}
	}
	if _, err := w.r.Client.ContainerService().Create(ctx, *record); err != nil {
		return nil, &startError{reason: reasonCreateError, err: fmt.Errorf("create container: %w", err)}
	}
	return record, nil
}

// LogPath is the log file of one attempt.
func LogPath(base string, pod *v1.Pod, container string, attempt int32) string {
	return filepath.Join(LogDir(base, pod), container, strconv.Itoa(int(attempt))+".log")
}

// runTask creates the task and starts it. It reports whether the runtime tried: if
// not, nothing of the container has run.
func (w *worker) runTask(ctx context.Context, pod *v1.Pod, s *slot, record *containers.Container, p *prepared, inst *instance) (tried bool, err error) {
	streams, err := w.openStdio(pod, s, inst)
	if err != nil {
		return true, err
	}
	if err := w.mapRoot(pod, p); err != nil {
		return true, err
	}
	rootfs := make([]*types.Mount, len(p.mounts))
	for i := range p.mounts {
		rootfs[i] = &p.mounts[i]
	}
	service := w.r.Client.TaskService()
	created, err := createTask(ctx, service, &tasks.CreateTaskRequest{
		ContainerID: record.ID, Rootfs: rootfs, Stdin: streams.in, Stdout: streams.out, Stderr: streams.err, Terminal: s.spec.TTY,
	})
	if err != nil {
		return !shimFailed(err), w.explain(ctx, pod, s.spec, fmt.Errorf("create task: %w", err))
	}
	inst.pid = int(created.Pid)
	// Taken before the process can end, so the number cannot be another's.
	if fd, err := unix.PidfdOpen(inst.pid, 0); err == nil {
		inst.pidfd = fd
	}
	if _, err := service.Start(ctx, &tasks.StartRequest{ContainerID: record.ID}); err != nil {
		inst.closeFD()
		return true, w.explain(ctx, pod, s.spec, fmt.Errorf("start task: %w", errgrpc.ToNative(err)))
	}
	inst.startedAt = now()
	return true, nil
}

// shimRetries and shimRetryFirst bound the wait for a shim of the same pod
// that is just ending: its address is taken and answers no more.
const (
	shimRetries    = 6
	shimRetryFirst = 10 * time.Millisecond
)

func createTask(ctx context.Context, service tasks.TasksClient, req *tasks.CreateTaskRequest) (*tasks.CreateTaskResponse, error) {
	for attempt := 0; ; attempt++ {
		created, err := service.Create(ctx, req)
		if err == nil {
			return created, nil
		}
		err = errgrpc.ToNative(err)
		if attempt == shimRetries || !noShim(err) {
			return nil, err
		}
		if !pause(ctx, shimRetryFirst<<attempt) {
			return nil, err
		}
	}
}

// shimFailed says that it was not the runtime that refused to make a container:
// there was no shim or no containerd to ask it, or it ended meanwhile. That says
// nothing of the container, so no attempt of its is spent.
func shimFailed(err error) bool {
	return noShim(err) || shimEnded(err) || errdefs.IsUnavailable(err) || errdefs.IsDeadlineExceeded(err)
}

func noShim(err error) bool { return strings.Contains(err.Error(), "failed to start shim") }

// failedStart keeps a start that the runtime refused as an ended attempt.
func (w *worker) failedStart(s *slot, inst *instance, err error) {
	at := timeOf(now())
	inst.cleaned = true
	s.current = inst
	s.exited(&v1.ContainerStateTerminated{
		ExitCode: 128, Reason: "StartError", Message: err.Error(),
		StartedAt: at, FinishedAt: at, ContainerID: containerID(inst.id),
	})
}

// startFailed reports why a start failed and when to try again.
func (w *worker) startFailed(pod *v1.Pod, s *slot, err error) time.Time {
	var failed *startError
	if !errors.As(err, &failed) {
		failed = &startError{reason: reasonCreateError, err: err}
	}
	s.waiting = v1.ContainerStateWaiting{Reason: failed.reason, Message: err.Error()}
	w.event(pod, s, v1.EventTypeWarning, "Failed", "Error: "+err.Error())
	if failed.ran {
		w.publish(pod)
		// The next step starts it again at once, or says that it backs off.
		w.poke()
		return time.Time{}
	}
	if failed.reason == reasonConfigError {
		w.r.Await(pod)
	}
	s.retryAt = now().Add(min(retryFirst<<min(s.retries, 10), startRetryMax))
	s.retries++
	return s.retryAt
}

// startRetryMax bounds the wait before a container that could not be made is
// tried again: what is missing may be there by now.
const startRetryMax = 10 * time.Second

// watchExit tells the worker when the instance ends. A lost connection to
// containerd is not an exit: it asks again.
func (w *worker) watchExit(ctx context.Context, s *slot, inst *instance) {
	spec := s.spec // the slot is the worker's
	w.jobs.Go(func() {
		for failures := 0; ; failures++ {
			got, err := w.r.Client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: inst.id})
			if ctx.Err() != nil {
				return
			}
			err = errgrpc.ToNative(err)
			if err == nil {
				w.awaitLog(ctx, spec, inst, int32(got.ExitStatus))
				w.tell(func(w *worker) { w.onExit(s, inst, int32(got.ExitStatus), got.ExitedAt.AsTime()) })
				return
			}
			if errdefs.IsNotFound(err) {
				w.tell(func(w *worker) { w.onLost(s, inst) })
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryAfter(failures)):
			}
		}
	})
}

// onExit notes how an attempt ended.
func (w *worker) onExit(s *slot, inst *instance, code int32, at time.Time) {
	if s.current != inst || inst.exit != nil {
		return
	}
	pod := w.newest()
	t := &v1.ContainerStateTerminated{
		ExitCode: code, Reason: "Completed", StartedAt: timeOf(inst.startedAt), FinishedAt: timeOf(at),
		ContainerID: containerID(inst.id),
	}
	if code != 0 {
		t.Reason = "Error"
	}
	// Also when a child was killed and the container went on, as containerd's
	// own CRI server has it for the kubelet.
	if w.r.Cgroups.OOMKilled(w.r.Cgroups.PodPath(QOSClass(pod), string(pod.UID)), inst.id) {
		t.Reason = "OOMKilled"
	}
	t.Message = w.terminationMessage(pod, s, inst, code)
	s.exited(t)
	if w.stop != nil {
		return
	}
	w.restartingAll = w.restartingAll || s.restartsAll()
	// The task stays until another container of the pod has started.
	w.jobs.Go(func() { w.noteExit(w.r.ctx, inst, t) })
}

// onLost is for a container whose task is gone without a word, as after a
// reboot.
func (w *worker) onLost(s *slot, inst *instance) {
	if s.current != inst || inst.exit != nil {
		return
	}
	s.exited(lost(timeOf(inst.startedAt), "containerd://"+inst.id))
}

// newest is the pod as it was last set.
func (w *worker) newest() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

// noteExit keeps an exit on the container's record for a later daemon.
func (w *worker) noteExit(ctx context.Context, inst *instance, t *v1.ContainerStateTerminated) {
	data, err := json.Marshal(t)
	if err != nil {
		return
	}
	const labelMax = 3000 // containerd allows 4096 with the key
	if len(data) > labelMax {
		short := *t
		short.Message = ""
		data, _ = json.Marshal(&short)
	}
	_, err = w.r.Client.ContainerService().Update(ctx, containers.Container{
		ID: inst.id, Labels: map[string]string{labelExit: string(data)},
	}, "labels."+labelExit)
	if err != nil && ctx.Err() == nil && !errdefs.IsNotFound(err) {
		w.log.Warn("exit of a container could not be noted", "container", inst.id, "error", err)
	}
}

func (w *worker) deleteTask(ctx context.Context, inst *instance) {
	if err := w.r.deleteTask(ctx, inst.id); err != nil && !shimEnded(err) && ctx.Err() == nil {
		w.log.Warn("task of an ended container could not be deleted", "container", inst.id, "error", err)
	}
}

// shimEnded says that the task's shim ended while it was asked, as with the last of
// its pod's containers; containerd cleans up after it. The error comes as text
// (ttrpc.ErrClosed).
func shimEnded(err error) bool { return strings.Contains(err.Error(), "ttrpc: closed") }
