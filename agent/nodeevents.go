package agent

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// nodeWords are the kubelet's reasons for what a node's conditions come to:
// when true, and when false.
var nodeWords = map[v1.NodeConditionType][2]string{
	v1.NodeReady:          {"NodeReady", "NodeNotReady"},
	v1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
	v1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
	v1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
}

// tellChanges sends the kubelet's events for what differs between what the API
// had of this node and what was written.
func (n *node) tellChanges(before, after *v1.Node) {
	if old, now := before.Status.NodeInfo.BootID, after.Status.NodeInfo.BootID; old != "" && old != now {
		n.tell(v1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", n.o.NodeName, now))
	}
	for _, c := range after.Status.Conditions {
		words, ok := nodeWords[c.Type]
		if !ok || conditionOf(before, c.Type) == c.Status {
			continue
		}
		word := words[0]
		if c.Status == v1.ConditionFalse {
			word = words[1]
		}
		n.tell(v1.EventTypeNormal, word, fmt.Sprintf("Node %s status is now: %s", n.o.NodeName, word))
	}
}

func conditionOf(node *v1.Node, kind v1.NodeConditionType) v1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return ""
}
