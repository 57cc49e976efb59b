package services

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"shoal/netdp"
)

// Place is where the services are translated for.
type Place struct {
	// Node is the host's name, whose endpoints are the local ones of the traffic
	// policies.
	Node string
	// Zone is the host's, for hints by zone; may be empty.
	Zone string
	// Failed tells of the node of an endpoint that nothing answers there; nil:
	// none has failed.
	Failed func(node string) bool
}

// defaultAffinitySeconds is what the API's defaulting writes, too.
const defaultAffinitySeconds = corev1.DefaultClientIPServiceAffinitySeconds

// translate is Translate for a service whose addresses are of one family.
func translate(svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice, here Place) []netdp.Service {
	policy := trafficPolicy{
		Place:   here,
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
		one := netdp.Service{
			Key:          portKey(svc, port),
			Proto:        proto,
			Frontends:    frontends(svc, port),
			Backends:     backends(svc, port, endpoints, policy),
			LocalOutside: policy.outside,

			AffinitySeconds: affinitySeconds(svc),
			Sources:         sources(svc),
		}
		out = append(out, apart(one, svc, port, endpoints, policy)...)
	}
	return out
}

// apart gives what is called from outside a service of its own where those
// inside get other backends there: internalTrafficPolicy is of cluster IPs alone.
func apart(one netdp.Service, svc *corev1.Service, port corev1.ServicePort, endpoints []*discoveryv1.EndpointSlice, policy trafficPolicy) []netdp.Service {
	outside := func(f netdp.Frontend) bool { return f.Outside || !f.Addr.IsValid() }
	if !policy.inside || !slices.ContainsFunc(one.Frontends, outside) {
		return []netdp.Service{one}
	}
	external := one
	external.Key += " external"
	external.Frontends = nil
	all := one.Frontends
	one.Frontends = nil
	for _, f := range all {
		if outside(f) {
			external.Frontends = append(external.Frontends, f)
		} else {
			one.Frontends = append(one.Frontends, f)
		}
	}
	one.LocalOutside, one.Sources = false, nil
	policy.inside = false
	external.Backends = backends(svc, port, endpoints, policy)
	return []netdp.Service{one, external}
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

func affinitySeconds(svc *corev1.Service) uint32 {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	config := svc.Spec.SessionAffinityConfig
	if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil || *config.ClientIP.TimeoutSeconds <= 0 {
		return uint32(defaultAffinitySeconds)
	}
	return uint32(*config.ClientIP.TimeoutSeconds)
}

// sources leaves out what it cannot read: then fewer may call, not more.
func sources(svc *corev1.Service) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// frontends gives source ranges to the addresses of load balancers alone, as
// kube-proxy does.
func frontends(svc *corev1.Service, port corev1.ServicePort) []netdp.Frontend {
	var out []netdp.Frontend
	filtered := len(svc.Spec.LoadBalancerSourceRanges) > 0
	add := func(ip string, outside, filtered bool) {
		if addr, err := netip.ParseAddr(ip); err == nil {
			out = append(out, netdp.Frontend{Addr: addr.Unmap(), Port: uint16(port.Port), Outside: outside, Filtered: filtered})
		}
	}
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{svc.Spec.ClusterIP}
	}
	for _, ip := range ips {
		add(ip, false, false)
	}
	for _, ip := range svc.Spec.ExternalIPs {
		add(ip, true, false)
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			add(in.IP, true, filtered)
		}
	}
	if port.NodePort != 0 {
		out = append(out, netdp.Frontend{Port: uint16(port.NodePort)})
	}
	return out
}

// trafficPolicy says which callers get only endpoints of the node.
type trafficPolicy struct {
	Place
	inside, outside bool
}

// candidate is an endpoint with what decides who may call it.
type candidate struct {
	addr               netip.AddrPort
	ready, terminating bool // terminating: and it still serves
	local              bool
	node, zone         hint // of trafficDistribution
}

// hint says whether an endpoint is meant for some callers, and for those here.
type hint struct{ some, here bool }

// backends are the endpoints that serve the port, for callers inside and
// outside each by its policy. What serves neither keeps the connections it has.
func backends(svc *corev1.Service, port corev1.ServicePort, endpoints []*discoveryv1.EndpointSlice, policy trafficPolicy) []netdp.Backend {
	all := candidates(svc, port, endpoints, policy.Place)
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
// that terminate but still serve do (KEP-1669). Of ready ones those are preferred
// that are meant for this node, or else for its zone (KEP-4444, KEP-3015).
func usable(all []candidate, localOnly bool) func(candidate) bool {
	anyReady := false
	for _, c := range all {
		anyReady = anyReady || c.ready && (c.local || !localOnly)
	}
	if localOnly {
		return func(c candidate) bool { return c.local && (c.ready || !anyReady && c.terminating) }
	}
	for _, of := range []func(candidate) hint{
		func(c candidate) hint { return c.node },
		func(c candidate) hint { return c.zone },
	} {
		if hintsCount(all, of) {
			return func(c candidate) bool { return c.ready && of(c).here }
		}
	}
	return func(c candidate) bool { return c.ready || !anyReady && c.terminating }
}

// hintsCount: every ready endpoint has hints, and some are meant for here. A set
// that is only half hinted is being changed.
func hintsCount(all []candidate, of func(candidate) hint) bool {
	anyHere := false
	for _, c := range all {
		if !c.ready {
			continue
		}
		if !of(c).some {
			return false
		}
		anyHere = anyHere || of(c).here
	}
	return anyHere
}

func candidates(svc *corev1.Service, port corev1.ServicePort, endpoints []*discoveryv1.EndpointSlice, here Place) []candidate {
	var out []candidate
	for _, s := range endpoints {
		number, ok := slicePort(s, port)
		if !ok || s.AddressType == discoveryv1.AddressTypeFQDN || !sameFamily(svc, s) {
			continue
		}
		for _, ep := range s.Endpoints {
			addr, ok := endpointAddr(ep)
			if !ok || here.failed(ep) {
				continue
			}
			node, zone := hints(ep, here)
			out = append(out, candidate{
				node: node, zone: zone,
				addr:        netip.AddrPortFrom(addr, number),
				ready:       isTrue(ep.Conditions.Ready, true),
				terminating: isTrue(ep.Conditions.Terminating, false) && isTrue(ep.Conditions.Serving, false),
				local:       ep.NodeName != nil && *ep.NodeName == here.Node,
			})
		}
	}
	return out
}

func (p Place) failed(ep discoveryv1.Endpoint) bool {
	return p.Failed != nil && ep.NodeName != nil && *ep.NodeName != p.Node && p.Failed(*ep.NodeName)
}

func hints(ep discoveryv1.Endpoint, here Place) (node, zone hint) {
	if ep.Hints == nil {
		return node, zone
	}
	for _, n := range ep.Hints.ForNodes {
		node = hint{some: true, here: node.here || n.Name == here.Node}
	}
	for _, z := range ep.Hints.ForZones {
		zone = hint{some: true, here: zone.here || here.Zone != "" && z.Name == here.Zone}
	}
	return node, zone
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
