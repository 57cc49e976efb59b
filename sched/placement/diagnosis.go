package placement

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Diagnosis says why no node will do.
type Diagnosis struct {
	// Nodes is how many there were.
	Nodes int
	// Reasons counts, per reason, the nodes it holds for. A node counts once,
	// at the first filter it fails, but under each resource it lacks.
	Reasons map[string]int
	// Refused is set instead when the pod asks for what no node is asked about.
	Refused string
	// Cause is set instead when the pod cannot be placed yet, whatever the node.
	Cause string
	// Waits is the set of changes that may make room.
	Waits Change

	hopeless int // nodes of which no pod need go, as it would not help
}

// Change is a set of kinds of change in the fleet.
type Change uint8

// The kinds of change a pod that found no node can wait for.
const (
	NodeChange   Change = 1 << iota // a node appeared or changed
	PodGone                         // a pod left a node, or was relabelled
	PodPlaced                       // a pod was put on a node, or was relabelled
	VolumeChange                    // a claim, a volume, a class or the room for volumes changed
)

// String is the message in the pod's condition and event, worded like the
// upstream scheduler's.
func (d Diagnosis) String() string {
	if d.Refused != "" {
		return d.Refused
	}
	if d.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	if d.Cause != "" {
		return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, d.Cause)
	}
	parts := make([]string, 0, len(d.Reasons))
	for reason, count := range d.Reasons {
		parts = append(parts, strconv.Itoa(count)+" "+reason)
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, strings.Join(parts, ", "))
}

func (s *Snapshot) diagnose(c *class, v views) Diagnosis {
	d := Diagnosis{Nodes: len(s.ring), Reasons: map[string]int{}, Waits: NodeChange}
	var scratch []string
	for _, e := range s.ring {
		var failed filter
		failed, scratch = s.explain(c, e.slot, v, scratch[:0])
		d.Waits |= changesThatHelp(failed)
		for _, reason := range scratch {
			d.Reasons[reason]++
		}
		if !s.helpedByLeaving(c, e.slot, failed) {
			d.hopeless++
		}
	}
	return d
}

// explain is examine that also says why in words.
func (s *Snapshot) explain(c *class, slot int, v views, reasons []string) (filter, []string) {
	failed := s.firstFailure(c, slot, v)
	if failed == passed && s.lodge(c, slot, v) {
		defer s.unlodge(c, slot, v)
		failed = s.firstFailure(c, slot, v)
	}
	switch failed {
	case passed:
	case failedResources:
		reasons = s.rows[slot].shortages(c.demand, reasons)
		reasons = s.nodes[slot].stock.shortages(c.extended, reasons)
	default:
		reasons = append(reasons, text[failed])
	}
	return failed, reasons
}

func changesThatHelp(failed filter) Change {
	switch failed {
	case failedPorts, failedResources, failedPodAntiAffinity, failedExistingAntiAffinity:
		return PodGone
	case failedClaimInUse:
		return PodGone | VolumeChange
	case failedVolumeAffinity, failedVolumeBinding, failedVolumeSpace, failedVolumeGone, failedVolumeZone:
		return VolumeChange
	case failedPodAffinity:
		return PodPlaced
	case failedSpread, failedSpreadLabel:
		return PodGone | PodPlaced
	default:
		return 0
	}
}

// Unsupported names what a pod asks for that placement cannot honour yet, or is
// empty. Such a pod stays pending: running it without would be worse.
func Unsupported(pod *v1.Pod) string {
	if len(pod.Spec.ResourceClaims) > 0 {
		return "not supported yet: spec.resourceClaims (dynamic resource allocation); request the device as an extended resource"
	}
	return ""
}
