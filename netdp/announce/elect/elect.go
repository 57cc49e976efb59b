package elect

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"shoal/api/loadbalancer/v1alpha1"
	"shoal/gossip/rendezvous"
)

// Addresses are those of a service that hosts announce.
func Addresses(svc *corev1.Service) []netip.Addr {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || !meta.IsStatusConditionPresentAndEqual(svc.Status.Conditions, v1alpha1.AddressAssigned, "True") {
		return nil
	}
	var all []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode != nil && *in.IPMode != corev1.LoadBalancerIPModeVIP {
			continue
		}
		if a, err := netip.ParseAddr(in.IP); err == nil {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// Candidates are the hosts among alive that may announce a service's addresses.
// excluded are those that an administrator keeps out (the label
// node.kubernetes.io/exclude-from-external-load-balancers).
func Candidates(svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice, alive []string, excluded map[string]bool) []string {
	candidates := slices.DeleteFunc(slices.Clone(alive), func(name string) bool { return excluded[name] })
	if svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return candidates
	}
	// As with what the datapath forwards to: endpoints that end but still serve
	// count where none is ready.
	ready, ending := map[string]bool{}, map[string]bool{}
	for _, s := range endpoints {
		for _, e := range s.Endpoints {
			if e.NodeName == nil {
				continue
			}
			switch c := e.Conditions; {
			case c.Ready == nil || *c.Ready:
				ready[*e.NodeName] = true
			case c.Serving != nil && *c.Serving && c.Terminating != nil && *c.Terminating:
				ending[*e.NodeName] = true
			}
		}
	}
	with := func(have map[string]bool) []string {
		return slices.DeleteFunc(slices.Clone(candidates), func(name string) bool { return !have[name] })
	}
	if some := with(ready); len(some) > 0 {
		return some
	}
	return with(ending)
}

// Announcer is the candidate that announces an address; empty without any.
func Announcer(a netip.Addr, candidates []string) string {
	return rendezvous.First("announce "+a.String(), candidates)
}
