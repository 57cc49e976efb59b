package agent

import (
	v1 "k8s.io/api/core/v1"
)

// nodeFeatures says what the agent does with any runtime.
func nodeFeatures() *v1.NodeFeatures {
	yes := true
	return &v1.NodeFeatures{SupplementalGroupsPolicy: &yes}
}
