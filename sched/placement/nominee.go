package placement

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Nominate promises a node to a pod that has none yet, as its status does:
// other pods of its priority or less find there only what it leaves. A pod that
// is placed is promised nothing.
func (s *Snapshot) Nominate(pod *v1.Pod, nodeName string) {
	s.Withdraw(pod.UID)
	if s.pods[pod.UID] != nil {
		return
	}
	p := s.newPlaced(pod, nodeName)
	s.nominees[p.uid] = p
	n := s.nodes[p.slot]
	n.nominees = append(n.nominees, p)
}

// Withdraw takes a promise back. A pod that has none is no error.
func (s *Snapshot) Withdraw(uid types.UID) {
	p := s.nominees[uid]
	if p == nil {
		return
	}
	delete(s.nominees, uid)
	n := s.nodes[p.slot]
	n.nominees = without(n.nominees, func(other *placed) bool { return other == p })
	s.letGoOf(p)
}

// Nominated is the node a pod is promised, empty for none.
func (s *Snapshot) Nominated(uid types.UID) string {
	if p := s.nominees[uid]; p != nil {
		return s.nodes[p.slot].name
	}
	return ""
}

// NomineesBeside are the pods that are promised the node a pod is on.
func (s *Snapshot) NomineesBeside(uid types.UID) (nominees []types.UID) {
	if p := s.pods[uid]; p != nil {
		for _, nominee := range s.nodes[p.slot].nominees {
			nominees = append(nominees, nominee.uid)
		}
	}
	return nominees
}

// findPromised is the node a pod was promised, while it will do. No other is
// looked at: the victims there went for this pod.
func (s *Snapshot) findPromised(c *class, v views) []int {
	p := s.nominees[v.uid]
	if p == nil || s.nodes[p.slot].object == nil || s.examine(c, p.slot, v) != passed {
		return nil
	}
	return []int{p.slot}
}

// examine is firstFailure with regard to whom the node is promised. A pod must
// do beside them and without them, since they may never come.
func (s *Snapshot) examine(c *class, slot int, v views) filter {
	failed := s.firstFailure(c, slot, v)
	if failed == passed && len(s.nodes[slot].nominees) > 0 {
		return s.besideNominees(c, slot, v)
	}
	return failed
}

func (s *Snapshot) besideNominees(c *class, slot int, v views) filter {
	if !s.lodge(c, slot, v) {
		return passed
	}
	defer s.unlodge(c, slot, v)
	return s.firstFailure(c, slot, v)
}

// lodge counts a node's nominees that are no less important than the pod, and
// tells whether there are any.
func (s *Snapshot) lodge(c *class, slot int, v views) bool {
	return s.shiftNominees(c, slot, v, 1)
}

func (s *Snapshot) unlodge(c *class, slot int, v views) { s.shiftNominees(c, slot, v, -1) }

func (s *Snapshot) shiftNominees(c *class, slot int, v views, sign int) (any bool) {
	for _, p := range s.nodes[slot].nominees {
		if p.priority >= v.priority && p.uid != v.uid {
			s.shift(p, c, v, sign)
			any = true
		}
	}
	return any
}

// shift is account for the moment: as far as a pod of the class, with these
// views, can tell.
func (s *Snapshot) shift(p *placed, c *class, v views, sign int) {
	n := s.nodes[p.slot]
	s.rows[p.slot].add(p.demand, int64(sign))
	if len(c.extended) > 0 {
		n.stock.add(p.demand.extended, int64(sign))
	}
	if len(c.ports) > 0 {
		n.usePorts(p.demand.ports, sign)
	}
	if v.claims != nil {
		s.storage.use(p, sign)
	}
	if v.peers != nil {
		s.tally(p, int32(sign))
	}
}

// displacedFrom are a node's nominees that are less important than a pod.
func (s *Snapshot) displacedFrom(slot int, priority int32) (list []PodRef) {
	for _, p := range s.nodes[slot].nominees {
		if p.priority < priority {
			list = append(list, p.ref())
		}
	}
	slices.SortFunc(list, PodRef.compare)
	return list
}
