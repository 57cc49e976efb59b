package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	v1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/events"

	"shoal/agent/cgroup"
	"shoal/agent/oci"
)

// In-place resize (KEP-1287). The wish a worker acts on has the resources that
// were admitted, whatever the specification asks for (Options.Allocate). What
// its containers and its group really have is changed to that: limits that grow
// the pod's first, those that shrink the containers' first, so that the pod's
// limit is never less than its containers'.

// Pending is a resize the host has not admitted.
type Pending struct {
	Reason     string // Deferred or Infeasible
	Message    string
	Generation int64 // of the pod that asked
}

// resizing is where the change of a pod's resources stands.
type resizing struct {
	pending    *Pending
	generation int64 // of the resize under way; 0 is none
	busy       bool
	failure    string
	failures   int
	retryAt    time.Time
}

// change is one container to be given other limits.
type change struct {
	s      *slot
	inst   *instance
	wanted v1.ResourceRequirements
	from   cgroup.Limits
	to     cgroup.Limits
}

// allocate replaces the wish's resources by those admitted.
func (w *worker) allocate(pod *v1.Pod) *v1.Pod {
	if w.r.Allocate == nil {
		return pod
	}
	pod, w.resize.pending = w.r.Allocate(pod)
	return pod
}

// resizeStep brings the pod's groups nearer to what was admitted, and says when
// to look again.
func (w *worker) resizeStep(ctx context.Context, pod *v1.Pod) time.Time {
	z := &w.resize
	if z.busy || !w.box.ready {
		return time.Time{}
	}
	group := w.groupLimits(pod)
	changes, restarts := w.resizes(pod)
	if len(changes)+len(restarts) == 0 && same(group, w.group) {
		w.resized(pod)
		return time.Time{}
	}
	if z.generation == 0 {
		z.generation = pod.Generation
	}
	if now().Before(z.retryAt) {
		return z.retryAt
	}
	z.busy = true
	r, from := w.r, w.group
	w.jobs.Go(func() {
		reached, done, err := r.actuate(ctx, pod, from, group, changes, len(restarts) > 0)
		if ctx.Err() != nil {
			return
		}
		w.tell(func(w *worker) { w.actuated(pod, reached, done, restarts, err) })
	})
	return time.Time{}
}

// resizes lists the running containers that have other limits than they should,
// those whose policy is a restart apart.
func (w *worker) resizes(pod *v1.Pod) (changes []change, restarts []*slot) {
	for _, s := range w.slots {
		if !s.running() || s.role == roleEphemeral || s.current.killing {
			continue
		}
		to := cgroup.ForContainer(pod, s.spec)
		has := &s.current.resources
		if same(s.current.limits, to) && sameRequest(has, &s.spec.Resources) {
			continue
		}
		if restartsFor(s.spec, s.current.limits, to, has) {
			restarts = append(restarts, s)
			continue
		}
		changes = append(changes, change{s, s.current, s.spec.Resources, s.current.limits, to})
	}
	// What shrinks makes room for what grows.
	slices.SortStableFunc(changes, func(a, b change) int {
		return b2i(shrinks(b.from.MemoryBytes, b.to.MemoryBytes)) - b2i(shrinks(a.from.MemoryBytes, a.to.MemoryBytes))
	})
	return changes, restarts
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// restartsFor applies the container's resize policy.
func restartsFor(c *v1.Container, from, to cgroup.Limits, has *v1.ResourceRequirements) bool {
	for _, p := range c.ResizePolicy {
		if p.RestartPolicy != v1.RestartContainer {
			continue
		}
		switch p.ResourceName {
		case v1.ResourceCPU:
			if from.CPUShares != to.CPUShares || from.CPUQuota != to.CPUQuota {
				return true
			}
		case v1.ResourceMemory:
			if from.MemoryBytes != to.MemoryBytes || has.Requests.Memory().Cmp(*c.Resources.Requests.Memory()) != 0 {
				return true
			}
		}
	}
	return false
}

// same compares the limits that can change.
func same(a, b cgroup.Limits) bool {
	return a.CPUShares == b.CPUShares && a.CPUQuota == b.CPUQuota && a.MemoryBytes == b.MemoryBytes
}

func sameRequest(a, b *v1.ResourceRequirements) bool {
	return a.Requests.Memory().Cmp(*b.Requests.Memory()) == 0 && a.Requests.Cpu().Cmp(*b.Requests.Cpu()) == 0
}

// shrinks reports whether a limit goes down; 0 is none.
func shrinks(from, to int64) bool { return to > 0 && (from == 0 || to < from) }

// larger is the higher of two limits; 0 is none.
func larger(a, b int64) int64 {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// groupLimits are those the pod's group should have. The kubelet does not take a
// limit away either.
func (w *worker) groupLimits(pod *v1.Pod) cgroup.Limits {
	l := cgroup.ForPod(pod, w.r.PodPIDs)
	if l.MemoryBytes == 0 {
		l.MemoryBytes = w.group.MemoryBytes
	}
	if l.CPUQuota == 0 {
		l.CPUQuota = w.group.CPUQuota
	}
	return l
}

// actuate writes limits. It tells which the group has now and which changes were
// made, also when it fails half-way. With more to come the group is not shrunk.
func (r *Runner) actuate(ctx context.Context, pod *v1.Pod, from, to cgroup.Limits, changes []change, more bool) (cgroup.Limits, []change, error) {
	if err := r.roomToShrink(pod, from, to, changes); err != nil {
		return from, nil, err
	}
	class, uid := QOSClass(pod), string(pod.UID)
	up := to
	up.MemoryBytes, up.CPUQuota = larger(from.MemoryBytes, to.MemoryBytes), larger(from.CPUQuota, to.CPUQuota)
	up.CPUShares = max(from.CPUShares, to.CPUShares)
	up.PIDs, up.HugePages = 0, nil // these do not change
	if !same(up, from) {
		if err := r.Cgroups.Update(class, uid, up); err != nil {
			return from, nil, err
		}
	}
	var done []change
	for _, c := range changes {
		if err := r.updateTask(ctx, c.inst.id, c.to); err != nil {
			return up, done, err
		}
		done = append(done, c)
	}
	if more || same(up, to) {
		return up, done, nil
	}
	down := to
	down.PIDs, down.HugePages = 0, nil
	if err := r.Cgroups.Update(class, uid, down); err != nil {
		return up, done, err
	}
	return to, done, nil
}

// roomToShrink refuses a memory limit below what is in use: the kernel would
// kill for it (v2) or refuse half-way (v1). The words are the kubelet's.
func (r *Runner) roomToShrink(pod *v1.Pod, from, to cgroup.Limits, changes []change) error {
	var errs []error
	group := r.Cgroups.PodPath(QOSClass(pod), string(pod.UID))
	if shrinks(from.MemoryBytes, to.MemoryBytes) {
		if m, err := r.Cgroups.Memory(group); err != nil {
			errs = append(errs, errors.New("missing pod memory usage"))
		} else if m.Usage >= uint64(to.MemoryBytes) {
			errs = append(errs, fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", to.MemoryBytes, m.Usage))
		}
	}
	for _, c := range changes {
		if !shrinks(c.from.MemoryBytes, c.to.MemoryBytes) {
			continue
		}
		name := c.s.spec.Name
		if m, err := r.Cgroups.Memory(r.Cgroups.ContainerPath(QOSClass(pod), string(pod.UID), c.inst.id)); err != nil {
			errs = append(errs, fmt.Errorf("missing container %q memory usage", name))
		} else if m.Usage >= uint64(c.to.MemoryBytes) {
			errs = append(errs, fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", name, c.to.MemoryBytes, m.Usage))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("cannot decrease memory limits: %w", utilerrors.NewAggregate(errs))
	}
	return nil
}

// updateTask has the runtime change a container's limits, so that it knows them
// too.
func (r *Runner) updateTask(ctx context.Context, id string, limits cgroup.Limits) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	resources := oci.Resources(limits, r.host)
	resources.HugepageLimits = nil // they cannot change
	spec, err := typeurl.MarshalAnyToProto(resources)
	if err != nil {
		return fmt.Errorf("encode resources: %w", err)
	}
	if _, err := r.Client.TaskService().Update(ctx, &tasks.UpdateTaskRequest{ContainerID: id, Resources: spec}); err != nil {
		return fmt.Errorf("change resources of container %s: %w", id, errgrpc.ToNative(err))
	}
	return nil
}

// actuated notes what was changed and restarts containers whose policy it is.
func (w *worker) actuated(pod *v1.Pod, group cgroup.Limits, done []change, restarts []*slot, err error) {
	z := &w.resize
	z.busy = false
	w.group = group
	for _, c := range done {
		c.inst.limits, c.inst.resources = c.to, c.wanted
	}
	if err != nil {
		z.failures++
		z.retryAt = now().Add(retryAfter(z.failures))
		if z.failure != err.Error() {
			z.failure = err.Error()
			w.r.Sink.Event(pod, v1.EventTypeWarning, events.ResizeError, events.PodResizeErrorMsg(klog.Background(), pod, z.generation, err.Error()))
		}
		return
	}
	z.failure, z.failures, z.retryAt = "", 0, time.Time{}
	for _, s := range restarts {
		if s.running() && !s.current.killing {
			s.current.again = true
			w.kill(pod, s, containerWord(s)+s.spec.Name+" resize requires restart", grace(pod))
		}
	}
}

// resized ends a resize.
func (w *worker) resized(pod *v1.Pod) {
	if w.resize.generation == 0 {
		return
	}
	w.r.Sink.Event(pod, v1.EventTypeNormal, events.ResizeCompleted, events.PodResizeCompletedMsg(klog.Background(), pod, w.resize.generation))
	w.resize = resizing{pending: w.resize.pending}
}
