package controllers

import (
	"sort"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"
)

// maxBurst is how many pods one pass over a ReplicaSet creates or deletes; the
// next pass comes once these were seen. It is upstream's figure.
const maxBurst = 500

// sight is what one pass over a ReplicaSet sees.
type sight struct {
	set         *apps.ReplicaSet
	active      []*v1.Pod // claimed, neither finished nor going
	terminating []*v1.Pod // claimed and going
	owned       []*v1.Pod // every pod that names the set as its controller
	related     []*v1.Pod // active pods of all ReplicaSets of the same owner
	known       numbers   // used by pods that are not in sight
	now         time.Time
}

// plan is what the pass does about it.
type plan struct {
	create []string // names
	remove []*v1.Pod
}

// planReplicas is the arithmetic of replicas: pure, equal sights give equal
// plans.
func planReplicas(s sight) plan {
	missing := int(*s.set.Spec.Replicas) - len(s.active)
	switch {
	case s.set.DeletionTimestamp != nil:
		return plan{}
	case missing > 0:
		return plan{create: planNames(s, min(missing, maxBurst))}
	case missing < 0:
		return plan{remove: planRemoval(s, min(-missing, maxBurst))}
	}
	return plan{}
}

func planNames(s sight, count int) []string {
	var names []string
	for _, ordinal := range nextOrdinals(s.set.Name, s.set.UID, s.owned, s.known, count) {
		names = append(names, podName(s.set.Name, s.set.UID, ordinal))
	}
	return names
}

// planRemoval takes the pods that would be missed least: upstream's ranking,
// and among equals the higher name, so that two leaders take the same.
func planRemoval(s sight, count int) []*v1.Pod {
	pods := append([]*v1.Pod(nil), s.active...)
	sort.Slice(pods, func(i, j int) bool { return pods[i].Name > pods[j].Name })
	perNode := map[string]int{}
	for _, pod := range s.related {
		perNode[pod.Spec.NodeName]++
	}
	ranks := make([]int, len(pods))
	for i, pod := range pods {
		ranks[i] = perNode[pod.Spec.NodeName]
	}
	// No Now: with it, ages count in powers of two of the moment's distance, and
	// two leaders a millisecond apart would choose different pods.
	sort.Stable(controller.ActivePodsWithRanks{Pods: pods, Rank: ranks})
	return pods[:count]
}

// statusOf is the status a ReplicaSet should have; failed is what creating or
// deleting its pods ended with.
func statusOf(s sight, failed error) apps.ReplicaSetStatus {
	status := *s.set.Status.DeepCopy()
	status.Replicas = int32(len(s.active))
	status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = 0, 0, 0
	template := labels.SelectorFromSet(s.set.Spec.Template.Labels)
	for _, pod := range s.active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if podutil.IsPodReady(pod) {
			status.ReadyReplicas++
		}
		if podutil.IsPodAvailable(pod, s.set.Spec.MinReadySeconds, metav1.NewTime(s.now)) {
			status.AvailableReplicas++
		}
	}
	terminating := int32(len(s.terminating))
	status.TerminatingReplicas = &terminating
	status.ObservedGeneration = s.set.Generation
	status.Conditions = failureCondition(s, status.Conditions, failed)
	return status
}

// failureCondition keeps an existing condition until the failure is over, so
// that its time says when it began.
func failureCondition(s sight, conditions []apps.ReplicaSetCondition, failed error) []apps.ReplicaSetCondition {
	var kept []apps.ReplicaSetCondition
	for _, c := range conditions {
		if c.Type != apps.ReplicaSetReplicaFailure {
			kept = append(kept, c)
		} else if failed != nil {
			return conditions
		}
	}
	if failed == nil {
		return kept
	}
	reason := "FailedCreate"
	if len(s.active) > int(*s.set.Spec.Replicas) {
		reason = "FailedDelete"
	}
	return append(kept, apps.ReplicaSetCondition{
		Type:               apps.ReplicaSetReplicaFailure,
		Status:             v1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(s.now),
		Reason:             reason,
		Message:            failed.Error(),
	})
}
