package placement

import (
	"fmt"
	"math"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spreadTerm is a topology spread constraint with whenUnsatisfiable
// DoNotSchedule. Those with ScheduleAnyway are wishes; the spreading score
// keeps the pods of one owner apart without them.
type spreadTerm struct {
	key          string
	maxSkew      int
	minDomains   int
	selector     labels.Selector
	honourTaints bool
	anyNode      bool // nodeAffinityPolicy: Ignore
}

func parseSpread(pod *v1.Pod) ([]spreadTerm, error) {
	var terms []spreadTerm
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable != v1.DoNotSchedule {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			return nil, fmt.Errorf("parse spec.topologySpreadConstraints[%d].labelSelector: %w", i, err)
		}
		term := spreadTerm{key: c.TopologyKey, maxSkew: int(c.MaxSkew), minDomains: 1, selector: selector}
		if c.MinDomains != nil {
			term.minDomains = int(*c.MinDomains)
		}
		term.honourTaints = c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor
		term.anyNode = c.NodeAffinityPolicy != nil && *c.NodeAffinityPolicy == v1.NodeInclusionPolicyIgnore
		terms = append(terms, term)
	}
	return terms, nil
}

// spreadView counts matching pods per domain of one constraint.
type spreadView struct {
	term   *spreadTerm
	counts map[string]int
	least  int
	self   int // 1 when the pod counts towards its own constraint
}

func (s *Snapshot) viewSpread(c *class, pod *v1.Pod) []spreadView {
	var views []spreadView
	for i := range c.peers.spread {
		term := &c.peers.spread[i]
		v := spreadView{term: term, counts: s.eligibleDomains(c, term)}
		for _, p := range s.byNamespace[pod.Namespace] {
			if d, ok := s.domainOf(p, term.key); ok && !p.leaving && term.selector.Matches(labels.Set(p.labels)) && s.eligible(c, term, s.nodes[p.slot].object) {
				v.counts[d.value]++
			}
		}
		v.least = leastOf(v.counts, term.minDomains)
		if term.selector.Matches(labels.Set(pod.Labels)) {
			v.self = 1
		}
		views = append(views, v)
	}
	return views
}

// eligibleDomains starts a count at zero for every domain the pod might use.
func (s *Snapshot) eligibleDomains(c *class, term *spreadTerm) map[string]int {
	counts := map[string]int{}
	for _, e := range s.ring {
		object := s.nodes[e.slot].object
		if value, ok := object.Labels[term.key]; ok && s.eligible(c, term, object) {
			counts[value] = 0
		}
	}
	return counts
}

// eligible follows KEP-3094: the pod's node affinity decides by default, taints
// only on request; and a node must carry the keys of all constraints.
func (s *Snapshot) eligible(c *class, term *spreadTerm, object *v1.Node) bool {
	for i := range c.peers.spread {
		if _, ok := object.Labels[c.peers.spread[i].key]; !ok {
			return false
		}
	}
	if !term.anyNode {
		if ok, err := c.required.Match(object); !ok || err != nil {
			return false
		}
	}
	if term.honourTaints {
		failed := c.judgeHard(object)
		return failed == passed || failed > failedTaints
	}
	return true
}

// leastOf is zero while there are fewer domains than asked for (KEP-3022).
func leastOf(counts map[string]int, minDomains int) int {
	if len(counts) < minDomains {
		return 0
	}
	least := math.MaxInt
	for _, n := range counts {
		least = min(least, n)
	}
	return least
}

func (v *peerView) checkSpread(object *v1.Node) filter {
	for i := range v.spreading {
		view := &v.spreading[i]
		value, ok := object.Labels[view.term.key]
		if !ok {
			return failedSpreadLabel
		}
		if view.counts[value]+view.self-view.least > view.term.maxSkew {
			return failedSpread
		}
	}
	return passed
}
