package sched

import (
	"errors"
	"maps"
	"runtime/debug"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/cache"

	"shoal/sched/placement"
	"shoal/sched/slices"
)

// watch keeps snapshot and queue equal to what the informers deliver.
func (s *Scheduler) watch() {
	core := s.informers.Core().V1()
	on(s, core.Nodes().Informer(), s.setNode, s.removeNode)
	on(s, core.Namespaces().Informer(), s.setNamespace, s.removeNamespace)
	on(s, core.Pods().Informer(), s.setPod, s.removePod)
	on(s, s.informers.Policy().V1().PodDisruptionBudgets().Informer(), s.setBudget, s.removeBudget)
	s.watchVolumes()
}

// on calls set and remove under the lock. An object that makes a handler panic
// is named and skipped; the others go on.
func on[T any, P interface {
	*T
	GetName() string
}](s *Scheduler, informer cache.SharedIndexInformer, set func(before, now P), remove func(P)) {
	guarded := func(object any, handle func(P)) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		typed, ok := object.(P)
		if !ok {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		defer func() {
			if r := recover(); r != nil {
				s.log.Error("handling an object panicked; it is skipped", "object", typed.GetName(), "panic", r, "stack", string(debug.Stack()))
			}
		}()
		handle(typed)
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { guarded(object, func(now P) { set(nil, now) }) },
		UpdateFunc: func(old, object any) {
			before, _ := old.(P)
			guarded(object, func(now P) { set(before, now) })
		},
		DeleteFunc: func(object any) { guarded(object, remove) },
	})
	if err != nil { // only for an informer that was stopped already
		s.failed = errors.Join(s.failed, err)
		return
	}
	s.synced = append(s.synced, registration.HasSynced)
	s.unwatch = append(s.unwatch, func() { _ = informer.RemoveEventHandler(registration) })
}

// setNode ignores the heartbeats, which are nearly all updates of a node.
func (s *Scheduler) setNode(before, now *v1.Node) {
	if before != nil && before.UID == now.UID &&
		before.Spec.Unschedulable == now.Spec.Unschedulable &&
		placement.EqualConditions(before, now) &&
		maps.Equal(before.Labels, now.Labels) &&
		apiequality.Semantic.DeepEqual(before.Spec.Taints, now.Spec.Taints) &&
		apiequality.Semantic.DeepEqual(before.Status.Allocatable, now.Status.Allocatable) {
		if !apiequality.Semantic.DeepEqual(before.Status.Images, now.Status.Images) {
			s.snapshot.SetImages(now) // no pod fits better for it
		}
		return
	}
	s.snapshot.SetNode(now)
	s.queue.changed(placement.NodeChange)
}

func (s *Scheduler) removeNode(node *v1.Node) {
	s.snapshot.RemoveNode(node.Name)
	// A domain that is gone may satisfy a spread constraint.
	s.queue.changed(placement.NodeChange)
}

func (s *Scheduler) setNamespace(before, now *v1.Namespace) {
	if before != nil && maps.Equal(before.Labels, now.Labels) {
		return
	}
	s.snapshot.SetNamespace(now.Name, now.Labels)
	s.queue.changed(placement.PodGone | placement.PodPlaced)
}

func (s *Scheduler) removeNamespace(namespace *v1.Namespace) {
	s.snapshot.RemoveNamespace(namespace.Name)
}

func (s *Scheduler) setPod(before, now *v1.Pod) {
	if before != nil && before.UID != now.UID { // deleted and made again between two looks
		s.removePod(before)
		before = nil
	}
	switch {
	case now.Status.Phase == v1.PodSucceeded || now.Status.Phase == v1.PodFailed:
		s.removePod(now)
	case now.Spec.NodeName != "":
		s.setBoundPod(before, now)
	case now.Spec.SchedulerName != v1.DefaultSchedulerName || now.DeletionTimestamp != nil:
		s.removePod(now)
	case !s.led.Has(slices.Of(string(now.UID))):
		s.followNomination(before, now)
		s.queue.drop(now.UID) // another's; followShare comes for it if that changes
	case len(now.Spec.SchedulingGates) > 0:
		// The API server has set the condition SchedulingGated itself.
		s.queue.drop(now.UID)
	default:
		s.followNomination(before, now)
		s.setPendingPod(before, now)
	}
}

// setBoundPod accounts for a pod on its node. Most updates are the host's
// status reports and change nothing here.
func (s *Scheduler) setBoundPod(before, now *v1.Pod) {
	if before != nil && before.Spec.NodeName == now.Spec.NodeName && before.Generation == now.Generation &&
		maps.Equal(before.Labels, now.Labels) && (before.DeletionTimestamp == nil) == (now.DeletionTimestamp == nil) {
		s.snapshot.SetStart(now)
		return
	}
	delete(s.assumed, now.UID)
	delete(s.holding, now.UID)
	s.queue.drop(now.UID)
	s.snapshot.SetPod(now, now.Spec.NodeName)
	change := placement.PodPlaced
	if before != nil && before.Spec.NodeName != "" { // resized or relabelled: room either way
		change |= placement.PodGone
	}
	s.queue.changed(change)
}

// setPendingPod queues a pod, but does not try it sooner because its status was
// written, which is what the scheduler itself does.
func (s *Scheduler) setPendingPod(before, now *v1.Pod) {
	if before != nil && s.queue.has(now.UID) &&
		before.Generation == now.Generation && maps.Equal(before.Labels, now.Labels) {
		s.queue.refresh(now)
		return
	}
	s.queue.set(now)
}

func (s *Scheduler) removePod(pod *v1.Pod) {
	delete(s.assumed, pod.UID)
	delete(s.holding, pod.UID)
	s.queue.drop(pod.UID)
	s.snapshot.Withdraw(pod.UID)
	for _, uid := range s.snapshot.NomineesBeside(pod.UID) {
		s.queue.hurry(uid) // it may be what they waited for
	}
	s.snapshot.RemovePod(pod.UID)
	s.queue.changed(placement.PodGone)
}
