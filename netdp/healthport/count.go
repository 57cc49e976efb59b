package healthport

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Port is the health-check port of a service, 0 without one.
func Port(svc *corev1.Service) int32 {
	if svc == nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return 0
	}
	return svc.Spec.HealthCheckNodePort
}

// Count is how many pods of a node are ready. One that ends is not, even if it
// still serves: no new connections are to come (KEP-1669).
func Count(endpoints []*discoveryv1.EndpointSlice, node string) int {
	seen := map[string]struct{}{}
	for _, s := range endpoints {
		for _, e := range s.Endpoints {
			if e.NodeName == nil || *e.NodeName != node || len(e.Addresses) == 0 || e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			who := e.Addresses[0]
			if e.TargetRef != nil && e.TargetRef.UID != "" {
				who = string(e.TargetRef.UID) // of two families it is one
			}
			seen[who] = struct{}{}
		}
	}
	return len(seen)
}
