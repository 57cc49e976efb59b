package placement

import (
	"cmp"
	"math"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// PodRef names a pod.
type PodRef struct {
	Namespace, Name string
	UID             types.UID
	Leaving         bool // it is being deleted already
}

func (r PodRef) compare(other PodRef) int { return strings.Compare(string(r.UID), string(other.UID)) }

func (p *placed) ref() PodRef { return PodRef{p.kind.namespace, p.name, p.uid, p.leaving} }

// moreImportant orders the pods that preemption spares first to the front: by
// priority, then by age.
func moreImportant(a, b *placed) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.started, b.started), cmp.Compare(a.uid, b.uid))
}

// notStarted is younger than all that have.
const notStarted = math.MaxInt64

func startOf(pod *v1.Pod) int64 {
	if pod.Status.StartTime == nil {
		return notStarted
	}
	return pod.Status.StartTime.Unix()
}

// SetStart takes over when a pod started, which hosts tell after it was placed.
func (s *Snapshot) SetStart(pod *v1.Pod) {
	if p := s.pods[pod.UID]; p != nil {
		p.started = startOf(pod)
	}
}

// condemned tells whether a pod is being deleted to make room.
func condemned(pod *v1.Pod) bool {
	if pod.DeletionTimestamp == nil {
		return false
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == v1.DisruptionTarget {
			return c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonPreemptionByScheduler
		}
	}
	return false
}

// anyBelow tells whether some pod anywhere is less important.
func (s *Snapshot) anyBelow(priority int32) bool {
	for p := range s.priorities {
		if p < priority {
			return true
		}
	}
	return false
}
