package placement

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
)

// Result is a placement, or the reason there is none.
type Result struct {
	// Node is empty when no node will do; Diagnosis then says why.
	Node      string
	Diagnosis Diagnosis
	// Volumes are to be bound before the pod is; nil for most pods.
	Volumes []VolumeBinding
}

// views are what is known of a pod beside its class; peers and claims are nil
// for most.
type views struct {
	uid      types.UID
	priority int32
	peers    *peerView
	claims   *claimView
}

// viewsOf also says why no node will do, before one was looked at.
func (s *Snapshot) viewsOf(pod *v1.Pod, c *class) (v views, cause string) {
	claims, cause := s.viewClaims(pod)
	if cause != "" {
		return views{}, cause
	}
	peers := s.viewPeers(c, s.kindOf(pod.Namespace, pod.Labels))
	return views{pod.UID, corev1helpers.PodPriority(pod), peers, claims}, ""
}

// Place chooses the node for a pod. It changes nothing a later answer depends
// on: the caller puts the pod there with SetPod.
func (s *Snapshot) Place(pod *v1.Pod) Result {
	c := s.classOf(pod)
	if c.refused != "" {
		return Result{Diagnosis: Diagnosis{Nodes: len(s.ring), Refused: c.refused}}
	}
	v, cause := s.viewsOf(pod, c)
	if cause != "" {
		return Result{Diagnosis: Diagnosis{Nodes: len(s.ring), Cause: cause, Waits: VolumeChange}}
	}
	feasible := s.findPromised(c, v)
	if len(feasible) == 0 {
		feasible = s.findFeasible(c, v, s.startFor(pod), enoughFeasible(len(s.ring)))
	}
	if len(feasible) == 0 {
		return Result{Diagnosis: s.diagnose(c, v)}
	}
	best := s.nodes[s.best(c, pod, v, feasible)]
	result := Result{Node: best.name}
	if v.claims != nil && len(v.claims.unbound) > 0 {
		result.Volumes, _ = v.claims.bind(best.object)
	}
	return result
}

// Full fleets are searched up to fullSearchNodes; beyond that a share that
// shrinks from half to a twentieth is enough, as in the upstream scheduler.
const (
	fullSearchNodes    = 100
	largestSharePct    = 50
	smallestSharePct   = 5
	nodesPerSharePoint = 125
)

func enoughFeasible(nodes int) int {
	if nodes <= fullSearchNodes {
		return nodes
	}
	share := max(largestSharePct-nodes/nodesPerSharePoint, smallestSharePct)
	return max(nodes*share/100, fullSearchNodes)
}

// findFeasible walks the ring from start until enough nodes passed every
// filter. The result is valid until the next call.
func (s *Snapshot) findFeasible(c *class, v views, start, enough int) []int {
	s.feasible = s.feasible[:0]
	if c.pinned != nil {
		return s.findPinned(c, v)
	}
	for i := range s.ring {
		if i += start; i >= len(s.ring) {
			i -= len(s.ring)
		}
		slot := s.ring[i].slot
		if s.examine(c, slot, v) != passed {
			continue
		}
		if s.feasible = append(s.feasible, slot); len(s.feasible) == enough {
			break
		}
	}
	return s.feasible
}

// findPinned looks only at the nodes a class names, as the pods of a DaemonSet
// do.
func (s *Snapshot) findPinned(c *class, v views) []int {
	for _, name := range c.pinned {
		slot, ok := s.bySlot[name]
		if ok && s.nodes[slot].object != nil && s.examine(c, slot, v) == passed {
			s.feasible = append(s.feasible, slot)
		}
	}
	return s.feasible
}
