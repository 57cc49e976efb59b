package agent

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/oom"
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

// watchKills tells of kills of a host without memory until ctx ends. A host
// whose log the agent may not read does without.
func (n *node) watchKills(ctx context.Context) error {
	if err := oom.Watch(ctx, n.tellKill); err != nil {
		n.o.Logger.Warn("no Event will tell when this host runs out of memory; the daemon needs to read "+oom.Log+" (CAP_SYSLOG)", "error", err)
	}
	return nil
}

// tellKill sends the kubelet's event. A container that met its own limit has
// that in its status, and is no news of the host.
func (n *node) tellKill(k oom.Kill) {
	if k.Host {
		n.tell(v1.EventTypeWarning, "SystemOOM", fmt.Sprintf("System OOM encountered, victim process: %s, pid: %d", k.Process, k.Pid))
	}
}
