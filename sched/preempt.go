package sched

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"shoal/sched/placement"
)

// maxEvictions is how many victims of one preemption are written to at once.
const maxEvictions = 8

var errPreempted = errors.New("its node is needed for a pod of higher priority")

// preempt has the victims deleted. The pod waits meanwhile, promised their node;
// each that is gone has it tried again. What fails is decided anew.
func (s *Scheduler) preempt(ctx context.Context, pod *v1.Pod, p placement.Preemption) {
	if !s.alive(p.Node) {
		s.breakOff(pod, p, errHostGone)
		return
	}
	var evictions errgroup.Group
	evictions.SetLimit(maxEvictions)
	for _, victim := range p.Victims {
		if !victim.Leaving && !s.returnHeld(victim.UID) {
			evictions.Go(func() error { return s.evict(ctx, victim, pod, p.Node) })
		}
	}
	for _, displaced := range p.Displaced {
		evictions.Go(func() error { return s.clearNomination(ctx, displaced) })
	}
	if err := evictions.Wait(); err != nil && ctx.Err() == nil {
		s.breakOff(pod, p, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, displaced := range p.Displaced {
		s.queue.hurry(displaced.UID)
	}
}

// breakOff has a pod decided anew whose victims could not all be deleted.
func (s *Scheduler) breakOff(pod *v1.Pod, p placement.Preemption, err error) {
	s.log.Warn("making room for a pod failed; it is tried again", "pod", podName(pod), "node", p.Node, "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, victim := range p.Victims {
		s.snapshot.Spare(victim)
	}
	for _, displaced := range p.Displaced {
		s.queue.rouse(displaced.UID)
	}
	s.queue.rouse(pod.UID)
}

// returnHeld puts a victim that only holds its place for volumes back into the
// queue: nothing of it runs, so that it need not be deleted.
func (s *Scheduler) returnHeld(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holding[uid]
	if h == nil {
		return false
	}
	nominees := s.snapshot.NomineesBeside(uid)
	s.takeBack(h.decision, errPreempted)
	for _, nominee := range nominees {
		s.queue.hurry(nominee)
	}
	return true
}

// evict says on a pod why it goes, as Jobs and users want to know, and deletes
// it. One that is gone already is no error.
func (s *Scheduler) evict(ctx context.Context, victim placement.PodRef, by *v1.Pod, node string) error {
	err := s.patchStatus(ctx, victim, map[string]any{"conditions": []v1.PodCondition{{
		Type:               v1.DisruptionTarget,
		Status:             v1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(s.clock.Now()),
		Reason:             v1.PodReasonPreemptionByScheduler,
		Message:            v1.DefaultSchedulerName + ": preempting to accommodate a higher priority pod",
	}}})
	if err == nil {
		err = s.client.CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(victim.UID))})
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("delete pod %s/%s to make room: %w", victim.Namespace, victim.Name, err)
	}
	gone := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: victim.Namespace, Name: victim.Name, UID: victim.UID}}
	s.reports.preempted(gone, by, node)
	return nil
}

// clearNomination tells a pod that another has the node it was promised.
func (s *Scheduler) clearNomination(ctx context.Context, displaced placement.PodRef) error {
	err := s.patchStatus(ctx, displaced, map[string]any{"nominatedNodeName": nil})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("clear the nominated node of pod %s/%s: %w", displaced.Namespace, displaced.Name, err)
	}
	return nil
}

func (s *Scheduler) patchStatus(ctx context.Context, pod placement.PodRef, status map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// followNomination takes over the node a pod without one is promised, whoever
// promised it. An update that says nothing new does not undo what this peer has
// promised and not yet written. One that says otherwise has the pod tried again,
// which also puts right what was written late.
func (s *Scheduler) followNomination(before, now *v1.Pod) {
	promised := s.snapshot.Nominated(now.UID)
	node := promised
	if before == nil || before.Status.NominatedNodeName != now.Status.NominatedNodeName {
		node = now.Status.NominatedNodeName
	}
	s.nominate(now, node)
	if node != promised {
		s.queue.retell(now.UID)
	}
}

// nominate promises a node, or none; what was promised before is free for others.
func (s *Scheduler) nominate(pod *v1.Pod, node string) {
	before := s.snapshot.Nominated(pod.UID)
	if node == "" {
		s.snapshot.Withdraw(pod.UID)
	} else {
		s.snapshot.Nominate(pod, node)
	}
	if before != "" && before != node {
		s.queue.changed(placement.PodGone)
	}
}

func (s *Scheduler) setBudget(_, now *policyv1.PodDisruptionBudget) { s.snapshot.SetBudget(now) }

func (s *Scheduler) removeBudget(b *policyv1.PodDisruptionBudget) {
	s.snapshot.RemoveBudget(b.Namespace, b.Name)
}
