package placement

import v1 "k8s.io/api/core/v1"

// Result is a placement, or the reason there is none.
type Result struct {
	// Node is empty when no node will do; Diagnosis then says why.
	Node      string
	Diagnosis Diagnosis
}

// Place chooses the node for a pod. It changes nothing a later answer depends
// on: the caller puts the pod there with SetPod.
func (s *Snapshot) Place(pod *v1.Pod) Result {
	c := s.classOf(pod)
	if c.refused != "" {
		return Result{Diagnosis: Diagnosis{Nodes: len(s.ring), Refused: c.refused}}
	}
	peers := s.viewPeers(c, pod)
	feasible := s.findFeasible(c, peers, s.startFor(pod), enoughFeasible(len(s.ring)))
	if len(feasible) == 0 {
		return Result{Diagnosis: s.diagnose(c, peers)}
	}
	best := s.best(c, pod, feasible)
	return Result{Node: s.nodes[best].name}
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
func (s *Snapshot) findFeasible(c *class, peers *peerView, start, enough int) []int {
	s.feasible = s.feasible[:0]
	if c.pinned != nil {
		return s.findPinned(c, peers)
	}
	for i := range s.ring {
		if i += start; i >= len(s.ring) {
			i -= len(s.ring)
		}
		slot := s.ring[i].slot
		if s.firstFailure(c, slot, peers) != passed {
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
func (s *Snapshot) findPinned(c *class, peers *peerView) []int {
	for _, name := range c.pinned {
		slot, ok := s.bySlot[name]
		if ok && s.nodes[slot].object != nil && s.firstFailure(c, slot, peers) == passed {
			s.feasible = append(s.feasible, slot)
		}
	}
	return s.feasible
}
