package eviction

import v1 "k8s.io/api/core/v1"

// Conditions are the node's three of pressure, in the kubelet's words.
func (m *Monitor) Conditions() []v1.NodeCondition {
	return []v1.NodeCondition{
		condition(v1.NodeMemoryPressure, m.manager.IsUnderMemoryPressure(),
			"KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
			"KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		condition(v1.NodeDiskPressure, m.manager.IsUnderDiskPressure(),
			"KubeletHasDiskPressure", "kubelet has disk pressure",
			"KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		condition(v1.NodePIDPressure, m.manager.IsUnderPIDPressure(),
			"KubeletHasInsufficientPID", "kubelet has insufficient PID available",
			"KubeletHasSufficientPID", "kubelet has sufficient PID available"),
	}
}

func condition(kind v1.NodeConditionType, met bool, bad, badText, good, goodText string) v1.NodeCondition {
	if met {
		return v1.NodeCondition{Type: kind, Status: v1.ConditionTrue, Reason: bad, Message: badText}
	}
	return v1.NodeCondition{Type: kind, Status: v1.ConditionFalse, Reason: good, Message: goodText}
}
