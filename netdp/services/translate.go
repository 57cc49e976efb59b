package services

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"shoal/netdp"
)

// Translate turns a Service and all its EndpointSlices into what the datapath
// forwards: one entry for each port of TCP or UDP. It is pure. A service
// without a cluster IP (headless, ExternalName) gives none. node is this host.
func Translate(svc *corev1.Service, slices []*discoveryv1.EndpointSlice, node string) []netdp.Service {
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
			Key:       portKey(svc, port),
			Proto:     proto,
			Frontends: frontends(svc, port),
			Backends:  backends(svc, port, slices, node),
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

// backends are the endpoints that serve the port. As in kube-proxy, ready ones
// get the traffic; when there is none, those that terminate but still serve
// do. The rest keep the connections they have. When every ready one is hinted
// for some node, and one for this, those hinted for others count as the rest
// (trafficDistribution: PreferSameNode).
func backends(svc *corev1.Service, port corev1.ServicePort, slices []*discoveryv1.EndpointSlice, node string) []netdp.Backend {
	var ready, terminating, other []netdp.Backend
	var hinted []netdp.Backend // ready, for this node
	var elsewhere []netdp.Backend
	for _, s := range slices {
		number, ok := slicePort(s, port)
		if !ok || s.AddressType == discoveryv1.AddressTypeFQDN || !sameFamily(svc, s) {
			continue
		}
		for _, ep := range s.Endpoints {
			addr, ok := endpointAddr(ep)
			if !ok {
				continue
			}
			b := netdp.Backend{Addr: netip.AddrPortFrom(addr, number)}
			switch {
			case isTrue(ep.Conditions.Ready, true):
				ready = append(ready, b)
				switch hint(ep, node) {
				case here:
					hinted = append(hinted, b)
				case there:
					elsewhere = append(elsewhere, b)
				}
			case isTrue(ep.Conditions.Terminating, false) && isTrue(ep.Conditions.Serving, false):
				terminating = append(terminating, b)
			default:
				other = append(other, b)
			}
		}
	}
	if len(hinted) > 0 && len(hinted)+len(elsewhere) == len(ready) {
		ready, other = hinted, append(other, elsewhere...)
	}
	if len(ready) == 0 {
		ready, terminating = terminating, nil
	}
	for _, b := range append(terminating, other...) {
		b.Draining = true
		ready = append(ready, b)
	}
	return ready
}

// Where an endpoint's hints want its traffic to come from.
type hinting int

const (
	anywhere hinting = iota
	here
	there
)

func hint(ep discoveryv1.Endpoint, node string) hinting {
	if ep.Hints == nil || len(ep.Hints.ForNodes) == 0 {
		return anywhere
	}
	for _, n := range ep.Hints.ForNodes {
		if n.Name == node {
			return here
		}
	}
	return there
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
