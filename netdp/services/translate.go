package services

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"shoal/netdp"
)

// Translate turns a Service and all its EndpointSlices into what the datapath
// forwards: one entry for each port of TCP or UDP. It is pure. A service
// without a cluster IP (headless, ExternalName) gives none. node is the host's
// name, whose endpoints are the local ones of the traffic policies.
func Translate(svc *corev1.Service, slices []*discoveryv1.EndpointSlice, node string) []netdp.Service {
	policy := trafficPolicy{
		node:    node,
		inside:  svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		outside: svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "" {
		return nil
	}
	var out []netdp.Service
	for _, port := range svc.Spec.Ports {
		proto, ok := protocol(port.Protocol)
		if !ok {
			continue
		}
		out = append(out, netdp.Service{
			Key:          portKey(svc, port),
			Proto:        proto,
			Frontends:    frontends(svc, port),
			Backends:     backends(svc, port, slices, policy),
			LocalOutside: policy.outside,
		})
	}
	return out
}

func portKey(svc *corev1.Service, port corev1.ServicePort) string {
	return fmt.Sprintf("%s/%s:%d/%s", svc.Namespace, svc.Name, port.Port, port.Protocol)
}

func protocol(p corev1.Protocol) (netdp.Proto, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return netdp.TCP, true
	case corev1.ProtocolUDP:
		return netdp.UDP, true
	}
	return 0, false
}

func frontends(svc *corev1.Service, port corev1.ServicePort) []netdp.Frontend {
	var out []netdp.Frontend
	add := func(ip string, outside bool) {
		if addr, err := netip.ParseAddr(ip); err == nil {
			out = append(out, netdp.Frontend{Addr: addr.Unmap(), Port: uint16(port.Port), Outside: outside})
		}
	}
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{svc.Spec.ClusterIP}
	}
	for _, ip := range ips {
		add(ip, false)
	}
	for _, ip := range svc.Spec.ExternalIPs {
		add(ip, true)
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			add(in.IP, true)
		}
	}
	if port.NodePort != 0 {
		out = append(out, netdp.Frontend{Port: uint16(port.NodePort)})
	}
	return out
}

// trafficPolicy says which callers get only endpoints of the node.
type trafficPolicy struct {
	node            string
	inside, outside bool
}

// candidate is an endpoint with what decides who may call it.
type candidate struct {
	addr               netip.AddrPort
	ready, terminating bool // terminating: and it still serves
	local              bool
	// Hints of trafficDistribution: it has some, and this node is among them.
	hinted, hintedHere bool
}

// backends are the endpoints that serve the port, for callers inside and
// outside each by its policy. What serves neither keeps the connections it has.
func backends(svc *corev1.Service, port corev1.ServicePort, endpoints []*discoveryv1.EndpointSlice, policy trafficPolicy) []netdp.Backend {
	all := candidates(svc, port, endpoints, policy.node)
	inside, outside := usable(all, policy.inside), usable(all, policy.outside)
	out := make([]netdp.Backend, 0, len(all))
	for _, c := range all {
		b := netdp.Backend{Addr: c.addr}
		switch in, ext := inside(c), outside(c); {
		case in && !ext:
			b.Callers = netdp.OnlyInside
		case ext && !in:
			b.Callers = netdp.OnlyOutside
		case !in && !ext:
			b.Draining = true
		}
		out = append(out, b)
	}
	return out
}

// usable tells which endpoints get new connections. As in kube-proxy, ready
// ones do; when there is none (with a local policy: none on this node), those
// that terminate but still serve do. Where every ready one says for which nodes it
// is meant, and some are meant for this one, these are preferred (KEP-3015).
func usable(all []candidate, localOnly bool) func(candidate) bool {
	anyReady, allHinted, anyHere := false, true, false
	for _, c := range all {
		anyReady = anyReady || c.ready && (c.local || !localOnly)
		if c.ready {
			allHinted, anyHere = allHinted && c.hinted, anyHere || c.hintedHere
		}
	}
	if !localOnly && allHinted && anyHere {
		return func(c candidate) bool { return c.ready && c.hintedHere }
	}
	return func(c candidate) bool {
		if localOnly && !c.local {
			return false
		}
		return c.ready || !anyReady && c.terminating
	}
}

func candidates(svc *corev1.Service, port corev1.ServicePort, endpoints []*discoveryv1.EndpointSlice, node string) []candidate {
	var out []candidate
	for _, s := range endpoints {
		number, ok := slicePort(s, port)
		if !ok || s.AddressType == discoveryv1.AddressTypeFQDN || !sameFamily(svc, s) {
			continue
		}
		for _, ep := range s.Endpoints {
			addr, ok := endpointAddr(ep)
			if !ok {
				continue
			}
			hinted, here := nodeHints(ep, node)
			out = append(out, candidate{
				hinted: hinted, hintedHere: here,
				addr:        netip.AddrPortFrom(addr, number),
				ready:       isTrue(ep.Conditions.Ready, true),
				terminating: isTrue(ep.Conditions.Terminating, false) && isTrue(ep.Conditions.Serving, false),
				local:       ep.NodeName != nil && *ep.NodeName == node,
			})
		}
	}
	return out
}

func nodeHints(ep discoveryv1.Endpoint, node string) (hinted, here bool) {
	if ep.Hints == nil || len(ep.Hints.ForNodes) == 0 {
		return false, false
	}
	return true, slices.ContainsFunc(ep.Hints.ForNodes, func(f discoveryv1.ForNode) bool { return f.Name == node })
}

// slicePort finds the number that the service's port has in a slice: by name,
// which is how named target ports differ between pods.
func slicePort(s *discoveryv1.EndpointSlice, port corev1.ServicePort) (uint16, bool) {
	for _, p := range s.Ports {
		name, proto := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		want := port.Protocol
		if want == "" {
			want = corev1.ProtocolTCP
		}
		if name == port.Name && proto == want && p.Port != nil {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

// sameFamily keeps IPv6 endpoints out of a service that has no IPv6 address.
func sameFamily(svc *corev1.Service, s *discoveryv1.EndpointSlice) bool {
	if len(svc.Spec.IPFamilies) == 0 {
		return true
	}
	for _, f := range svc.Spec.IPFamilies {
		if string(f) == string(s.AddressType) {
			return true
		}
	}
	return false
}

// endpointAddr is the first address: the API says the others mean the same.
func endpointAddr(ep discoveryv1.Endpoint) (netip.Addr, bool) {
	if len(ep.Addresses) == 0 {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(ep.Addresses[0])
	return addr.Unmap(), err == nil
}

func isTrue(b *bool, unset bool) bool {
	if b == nil {
		return unset
	}
	return *b
}
