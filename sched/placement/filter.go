package placement

import (
	v1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// filter names the first filter a node failed, in the order they are tried.
type filter uint8

const (
	passed filter = iota
	failedUnschedulable
	failedNotReady
	failedDiskPressure
	failedMemoryPressure
	failedPIDPressure
	failedNetwork
	failedTaints
	failedNodeAffinity
	failedPorts
	failedResources
	failedClaimInUse
	failedVolumeAffinity
	failedVolumeBinding
	failedVolumeSpace
	failedVolumeGone
	failedVolumeZone
	failedSpread
	failedSpreadLabel
	failedPodAffinity
	failedPodAntiAffinity
	failedExistingAntiAffinity
)

// text is the wording of the upstream scheduler, which people and tools know.
// Resources have none here: each kind of shortage has its own.
var text = map[filter]string{
	failedUnschedulable:        "node(s) were unschedulable",
	failedNotReady:             "node(s) were not ready",
	failedDiskPressure:         "node(s) had disk pressure",
	failedMemoryPressure:       "node(s) had memory pressure",
	failedPIDPressure:          "node(s) had pid pressure",
	failedNetwork:              "node(s) had unavailable network",
	failedTaints:               "node(s) had untolerated taint(s)",
	failedNodeAffinity:         "node(s) didn't match Pod's node affinity/selector",
	failedPorts:                "node(s) didn't have free ports for the requested pod ports",
	failedClaimInUse:           "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
	failedVolumeAffinity:       "node(s) didn't match PersistentVolume's node affinity",
	failedVolumeBinding:        "node(s) didn't find available persistent volumes to bind",
	failedVolumeSpace:          "node(s) did not have enough free storage",
	failedVolumeGone:           "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
	failedVolumeZone:           "node(s) had no available volume zone",
	failedSpread:               "node(s) didn't match pod topology spread constraints",
	failedSpreadLabel:          "node(s) didn't match pod topology spread constraints (missing required label)",
	failedPodAffinity:          "node(s) didn't match pod affinity rules",
	failedPodAntiAffinity:      "node(s) didn't match pod anti-affinity rules",
	failedExistingAntiAffinity: "node(s) didn't satisfy existing pods anti-affinity rules",
}

// comparisonOperators lets tolerations use Gt and Lt; where the API server does
// not allow them, none arrives here.
const comparisonOperators = true

var silent = klog.Logger{}

// verdictOf is the cached answer of the filters that depend on the node alone.
func (s *Snapshot) verdictOf(c *class, slot int) *verdict {
	if c.pinned != nil { // looks at so few nodes that a memory of all is a waste
		c.single = c.judge(s.nodes[slot].object)
		return &c.single
	}
	if len(c.verdicts) < len(s.nodes) {
		c.verdicts = append(c.verdicts, make([]verdict, len(s.nodes)-len(c.verdicts))...)
	}
	v, n := &c.verdicts[slot], s.nodes[slot]
	if v.generation != n.generation {
		*v = c.judge(n.object)
		v.generation = n.generation
	}
	return v
}

func (c *class) judge(object *v1.Node) verdict {
	var v verdict
	if v.failed = c.judgeHard(object); v.failed != passed {
		return v
	}
	if c.preferred != nil {
		v.preference = int32(c.preferred.Score(object))
	}
	for i := range object.Spec.Taints {
		taint := &object.Spec.Taints[i]
		if taint.Effect == v1.TaintEffectPreferNoSchedule && !c.tolerates(taint) {
			v.intolerant++
		}
	}
	return v
}

func (c *class) judgeHard(object *v1.Node) filter {
	cordon := v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}
	if object.Spec.Unschedulable && !c.tolerates(&cordon) {
		return failedUnschedulable
	}
	if taint := unready(object); taint != nil && !c.tolerates(taint) {
		return failedNotReady
	}
	if failed := c.judgeConditions(object); failed != passed {
		return failed
	}
	for i := range object.Spec.Taints {
		taint := &object.Spec.Taints[i]
		if taint.Effect != v1.TaintEffectPreferNoSchedule && !c.tolerates(taint) {
			return failedTaints
		}
	}
	if ok, err := c.required.Match(object); !ok || err != nil {
		return failedNodeAffinity
	}
	return passed
}

// unready returns the taint that upstream's node controller would put on a node
// whose condition says it is not ready, nil for all others. Nobody writes it
// here: the condition is enough, and comes and goes with the host.
func unready(object *v1.Node) *v1.Taint {
	for i := range object.Status.Conditions {
		if c := &object.Status.Conditions[i]; c.Type == v1.NodeReady {
			switch c.Status {
			case v1.ConditionFalse:
				return &v1.Taint{Key: v1.TaintNodeNotReady, Effect: v1.TaintEffectNoSchedule}
			case v1.ConditionUnknown:
				return &v1.Taint{Key: v1.TaintNodeUnreachable, Effect: v1.TaintEffectNoSchedule}
			}
		}
	}
	return nil
}

// trouble is what upstream's node controller makes a taint NoSchedule of, while
// the condition is true. Here too the condition is enough.
var trouble = []struct {
	condition v1.NodeConditionType
	taint     string
	failed    filter
}{
	{v1.NodeDiskPressure, v1.TaintNodeDiskPressure, failedDiskPressure},
	{v1.NodeMemoryPressure, v1.TaintNodeMemoryPressure, failedMemoryPressure},
	{v1.NodePIDPressure, v1.TaintNodePIDPressure, failedPIDPressure},
	{v1.NodeNetworkUnavailable, v1.TaintNodeNetworkUnavailable, failedNetwork},
}

// judgeConditions leaves a node alone that would evict the pod again. Only pods
// of the QoS class BestEffort are kept from one that is short of memory: the
// others are taken to tolerate that, as upstream's admission does.
func (c *class) judgeConditions(object *v1.Node) filter {
	for i := range trouble {
		t := &trouble[i]
		if !conditionHolds(object, t.condition) || t.failed == failedMemoryPressure && !c.bestEffort {
			continue
		}
		if !c.tolerates(&v1.Taint{Key: t.taint, Effect: v1.TaintEffectNoSchedule}) {
			return t.failed
		}
	}
	return passed
}

func conditionHolds(object *v1.Node, kind v1.NodeConditionType) bool {
	for i := range object.Status.Conditions {
		if c := &object.Status.Conditions[i]; c.Type == kind {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// EqualConditions reports whether two nodes look alike to placement by what
// their hosts say of their state.
func EqualConditions(a, b *v1.Node) bool {
	if Ready(a) != Ready(b) {
		return false
	}
	for i := range trouble {
		if conditionHolds(a, trouble[i].condition) != conditionHolds(b, trouble[i].condition) {
			return false
		}
	}
	return true
}

// Ready reports whether pods may be put on a node by its Ready condition.
func Ready(object *v1.Node) bool { return unready(object) == nil }

func (c *class) tolerates(taint *v1.Taint) bool {
	return corev1helpers.TolerationsTolerateTaint(silent, c.tolerations, taint, comparisonOperators)
}

// firstFailure runs every filter on one node.
func (s *Snapshot) firstFailure(c *class, slot int, v views) filter {
	if node := s.verdictOf(c, slot); node.failed != passed {
		return node.failed
	}
	n := s.nodes[slot]
	if len(c.ports) > 0 && !n.ports.free(c.ports) {
		return failedPorts
	}
	if !s.rows[slot].fits(c.demand) || !n.stock.fits(c.extended) {
		return failedResources
	}
	if v.claims != nil {
		if failed := v.claims.check(n.object); failed != passed {
			return failed
		}
	}
	if v.peers != nil {
		return v.peers.check(slot)
	}
	return passed
}
