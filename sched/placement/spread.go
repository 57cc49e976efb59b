package placement

import (
	"fmt"
	"math"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spreadTerm is a topology spread constraint.
type spreadTerm struct {
	peerTerm     // of the pod's own namespace
	maxSkew      int32
	minDomains   int
	honourTaints bool
	anyNode      bool // nodeAffinityPolicy: Ignore
}

func (t *peerTerms) parseSpread(pod *v1.Pod) error {
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		selector, err := spreadSelector(pod, c)
		if err != nil {
			return fmt.Errorf("parse spec.topologySpreadConstraints[%d].labelSelector: %w", i, err)
		}
		term := spreadTerm{
			peerTerm: peerTerm{c.TopologyKey, []string{pod.Namespace}, labels.Nothing(), selector},
			maxSkew:  c.MaxSkew, minDomains: 1,
		}
		if c.MinDomains != nil {
			term.minDomains = int(*c.MinDomains)
		}
		term.honourTaints = c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor
		term.anyNode = c.NodeAffinityPolicy != nil && *c.NodeAffinityPolicy == v1.NodeInclusionPolicyIgnore
		if c.WhenUnsatisfiable == v1.DoNotSchedule {
			t.spread = append(t.spread, term)
		} else {
			t.softSpread = append(t.softSpread, term)
		}
	}
	return nil
}

// spreadSelector adds what matchLabelKeys take from the pod (KEP-3243). A
// selector of everything counts nothing, as upstream.
func spreadSelector(pod *v1.Pod, c *v1.TopologySpreadConstraint) (labels.Selector, error) {
	selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
	if err != nil {
		return nil, err
	}
	own := labels.Set{}
	for _, key := range c.MatchLabelKeys {
		if value, ok := pod.Labels[key]; ok {
			own[key] = value
		}
	}
	if requirements, selectable := selector.Requirements(); selectable && len(own) > 0 {
		selector = labels.SelectorFromSet(own).Add(requirements...)
	}
	if selector.Empty() {
		return labels.Nothing(), nil
	}
	return selector, nil
}

// spreadBook is what a counter for a spread constraint knows beside the counts:
// which nodes the pod might use, and what the emptiest of their domains holds.
type spreadBook struct {
	class   *class
	term    *spreadTerm
	group   []spreadTerm // the constraints whose keys a node must have
	nodes   []bool       // eligible, by slot
	domains []int32      // eligible nodes, by domain
	present int          // domains that have any
	having  []int32      // such domains, by their count
	least   int32        // the smallest count of any, 0 without
}

func (b *spreadBook) eligible(slot int) bool { return slot < len(b.nodes) && b.nodes[slot] }

// judge decides anew whether the pods of a node count. None may be counted
// there meanwhile.
func (c *counter) judge(slot int, object *v1.Node) {
	b := c.spread
	for len(b.nodes) <= slot {
		b.nodes = append(b.nodes, false)
	}
	if object == nil || !b.class.eligible(b.term, b.group, object) {
		return
	}
	b.nodes[slot] = true
	d := c.topology.domain(slot)
	c.reach(d)
	for int(d) >= len(b.domains) {
		b.domains = append(b.domains, 0)
	}
	if b.domains[d]++; b.domains[d] == 1 {
		b.present++
		b.note(c.counts[d], 1)
	}
}

// dismiss undoes judge, before the node's labels change.
func (c *counter) dismiss(slot int) {
	b := c.spread
	if !b.eligible(slot) {
		return
	}
	b.nodes[slot] = false
	d := c.topology.domain(slot)
	if b.domains[d]--; b.domains[d] == 0 {
		b.present--
		b.note(c.counts[d], -1)
	}
}

// move tells the book that a domain's count changes.
func (b *spreadBook) move(c *counter, d, from, to int32) {
	if int(d) >= len(b.domains) || b.domains[d] == 0 {
		return
	}
	b.note(to, 1)
	b.note(from, -1)
}

// note keeps the number of domains with some count, and the least count.
func (b *spreadBook) note(count, sign int32) {
	for int(count) >= len(b.having) {
		b.having = append(b.having, 0)
	}
	b.having[count] += sign
	if sign > 0 {
		b.least = min(b.least, count)
	}
	for b.having[b.least] == 0 { // no domain has less than the least
		if b.least++; int(b.least) == len(b.having) {
			b.least = 0
			return
		}
	}
}

// eligible follows KEP-3094: the pod's node affinity decides by default, taints
// only on request; and a node must carry the keys of all constraints.
func (c *class) eligible(term *spreadTerm, group []spreadTerm, object *v1.Node) bool {
	for i := range group {
		if _, ok := object.Labels[group[i].topologyKey]; !ok {
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

// floor is what the emptiest domain holds, zero while there are fewer domains
// than asked for (KEP-3022).
func (b *spreadBook) floor() int32 {
	if b.present < b.term.minDomains {
		return 0
	}
	return b.least
}

// heft is how much a pod in a domain weighs for soft spreading, in thousandths:
// more where there are many domains, so that hosts are not drowned by zones.
func heft(domains int) int64 {
	const scale = 1000
	return int64(math.Round(scale * math.Log(float64(domains+2))))
}
