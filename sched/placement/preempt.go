package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
)

// Upstream's defaults: so many nodes that would do are compared, or this share
// of those that might.
const (
	enoughCandidates   = 100
	candidatesSharePct = 10
)

const (
	noVictims  = "No preemption victims found for incoming pod"
	notHelpful = "Preemption is not helpful for scheduling"
)

// Preemption is who would have to go for a pod that found no node.
type Preemption struct {
	// Node is where they run; empty when nobody should go.
	Node string
	// Victims are the pods to delete, the most important first.
	Victims []PodRef
	// Displaced are less important pods that were promised the node.
	Displaced []PodRef
	// Message continues the diagnosis, in the words of the upstream scheduler.
	Message string
	// Holds tells that a node promised before is promised still.
	Holds bool
}

// Preempt looks for a node on which a pod would fit if pods of lower priority
// left, after upstream's DefaultPreemption (KEP-268): the most important stay if
// they can, those first that a disruption budget protects. It gets what Place
// said of the pod, and changes nothing.
func (s *Snapshot) Preempt(pod *v1.Pod, d Diagnosis) Preemption {
	if d.Refused != "" || d.Nodes == 0 {
		return Preemption{}
	}
	if policy := pod.Spec.PreemptionPolicy; policy != nil && *policy == v1.PreemptNever {
		return Preemption{Message: "preemption: not eligible due to preemptionPolicy=Never.", Holds: true}
	}
	c := s.classOf(pod)
	v, cause := s.viewsOf(pod, c)
	if cause != "" {
		return futile(d.Nodes, map[string]int{notHelpful: d.Nodes})
	}
	if s.awaitsVictims(c, v) {
		return Preemption{Message: "preemption: not eligible due to a terminating pod on the nominated node.", Holds: true}
	}
	if !s.anyBelow(v.priority) {
		return futile(d.Nodes, map[string]int{noVictims: d.Nodes - d.hopeless, notHelpful: d.hopeless})
	}
	best, reasons := s.compareCandidates(c, v, s.hopefulFrom(c, v, s.startFor(pod)))
	if best == nil {
		return futile(d.Nodes, reasons)
	}
	p := Preemption{Node: s.nodes[best.slot].name, Displaced: s.displacedFrom(best.slot, v.priority)}
	for _, victim := range best.victims {
		p.Victims = append(p.Victims, victim.ref())
	}
	p.Message = fmt.Sprintf("preemption: found a potential placement for pod on node %s, preempting %d victims", p.Node, len(p.Victims))
	return p
}

// futile says why no pod should go, by the number of nodes.
func futile(nodes int, reasons map[string]int) Preemption {
	maps.DeleteFunc(reasons, func(_ string, count int) bool { return count == 0 })
	return Preemption{Message: "preemption: " + Diagnosis{Nodes: nodes, Reasons: reasons}.String()}
}

// Promise takes a preemption for begun: its node is the pod's, and while the
// victims are there nobody else is chosen for it.
func (s *Snapshot) Promise(pod *v1.Pod, p Preemption) {
	s.Nominate(pod, p.Node)
	for _, displaced := range p.Displaced {
		s.Withdraw(displaced.UID)
	}
	for _, victim := range p.Victims {
		s.pods[victim.UID].condemned = true
	}
}

// Spare takes back that a pod will go, which could not be deleted.
func (s *Snapshot) Spare(victim PodRef) {
	if p := s.pods[victim.UID]; p != nil {
		p.condemned = false
	}
}

// awaitsVictims tells whether pods are leaving the promised node for this one,
// so that no others need to.
func (s *Snapshot) awaitsVictims(c *class, v views) bool {
	nominee := s.nominees[v.uid]
	if nominee == nil || s.nodes[nominee.slot].object == nil {
		return false
	}
	if failed := s.examine(c, nominee.slot, v); failed != passed && !s.helpedByLeaving(c, nominee.slot, failed) {
		return false
	}
	return slices.ContainsFunc(s.nodes[nominee.slot].pods, func(p *placed) bool {
		return p.condemned && p.priority < v.priority
	})
}

// helpedByLeaving tells whether a node that failed a filter might pass once pods
// leave it.
func (s *Snapshot) helpedByLeaving(c *class, slot int, failed filter) bool {
	switch failed {
	case failedPorts, failedClaimInUse, failedSpread, failedPodAntiAffinity, failedExistingAntiAffinity:
		return true
	case failedResources:
		return s.rows[slot].couldHold(c.demand) && s.nodes[slot].stock.couldHold(c.extended)
	default:
		return false
	}
}

// hopefulFrom lists such nodes in the order of the ring from start.
func (s *Snapshot) hopefulFrom(c *class, v views, start int) (slots []int) {
	add := func(slot int) {
		if failed := s.examine(c, slot, v); s.helpedByLeaving(c, slot, failed) {
			slots = append(slots, slot)
		}
	}
	if c.pinned != nil {
		for _, name := range c.pinned {
			if slot, ok := s.bySlot[name]; ok && s.nodes[slot].object != nil {
				add(slot)
			}
		}
		return slots
	}
	for i := range s.ring {
		add(s.ring[(start+i)%len(s.ring)].slot)
	}
	return slots
}

// compareCandidates returns the best node, or why each will not do.
func (s *Snapshot) compareCandidates(c *class, v views, slots []int) (best *candidate, reasons map[string]int) {
	reasons = map[string]int{notHelpful: len(s.ring) - len(slots)}
	enough := max(enoughCandidates, len(slots)*candidatesSharePct/100)
	found, peaceful := 0, false
	for _, slot := range slots {
		next, why := s.tryWithout(c, slot, v)
		if next == nil {
			for _, reason := range why {
				reasons[reason]++
			}
			continue
		}
		if best == nil || s.compare(next, best) < 0 {
			best = next
		}
		peaceful = peaceful || next.violations == 0
		if found++; found >= enough && peaceful {
			break
		}
	}
	return best, reasons
}

// candidate is a node with those who would have to go.
type candidate struct {
	slot       int
	victims    []*placed // the most important first
	violations int       // victims that a budget protects
}

// tryWithout takes away all who may go, and lets return who can.
func (s *Snapshot) tryWithout(c *class, slot int, v views) (*candidate, []string) {
	var out []*placed
	for _, p := range s.nodes[slot].pods {
		if p.priority < v.priority {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return nil, []string{noVictims}
	}
	for _, p := range out {
		s.lift(p, c, v)
	}
	defer func() { // also after a panic: the counts must stay true
		for _, p := range out {
			s.putBack(p, c, v)
		}
	}()
	if failed, why := s.explain(c, slot, v, nil); failed != passed {
		return nil, why
	}
	slices.SortFunc(out, moreImportant)
	violating, others := s.splitByBudgets(out)
	n := &candidate{slot: slot}
	n.victims = s.reprieve(c, slot, v, violating, nil)
	n.violations = len(n.victims)
	n.victims = s.reprieve(c, slot, v, others, n.victims)
	slices.SortFunc(n.victims, moreImportant)
	return n, nil
}

// reprieve lets those return beside whom the pod still fits, and adds the others
// to the victims.
func (s *Snapshot) reprieve(c *class, slot int, v views, pods, victims []*placed) []*placed {
	for _, p := range pods {
		s.putBack(p, c, v)
		if s.examine(c, slot, v) != passed {
			s.lift(p, c, v)
			victims = append(victims, p)
		}
	}
	return victims
}

func (s *Snapshot) lift(p *placed, c *class, v views) {
	s.shift(p, c, v, -1)
	p.lifted = true
}

func (s *Snapshot) putBack(p *placed, c *class, v views) {
	if p.lifted {
		s.shift(p, c, v, 1)
		p.lifted = false
	}
}

// compare puts the node first where preemption does the least harm.
func (s *Snapshot) compare(a, b *candidate) int {
	return cmp.Or(
		cmp.Compare(a.violations, b.violations),
		cmp.Compare(a.victims[0].priority, b.victims[0].priority),
		cmp.Compare(a.sum(), b.sum()),
		cmp.Compare(len(a.victims), len(b.victims)),
		cmp.Compare(b.victims[0].started, a.victims[0].started), // the oldest of the highest priority
		cmp.Compare(s.nodes[a.slot].name, s.nodes[b.slot].name),
	)
}

// sum adds the priorities up, all above zero, so that few pods of a negative one
// weigh less than many.
func (a *candidate) sum() (sum int64) {
	for _, p := range a.victims {
		sum += int64(p.priority) + 1<<31
	}
	return sum
}
