package records

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// service is what is answered for one Service. It is never changed once it is
// in an index.
type service struct {
	external  string       // ExternalName, in place of all below
	addresses []netip.Addr // cluster IPs, or the endpoints of a headless one
	headless  bool
	// endpoints are the ready ones by hostname.
	endpoints map[string][]netip.Addr
	// ports by their labels, "_http._tcp".
	ports map[string][]target
}

// target is where a port is: at an endpoint of a headless service, else (with
// host empty) at the service's own address.
type target struct {
	host string
	port uint16
}

func newService(svc *corev1.Service, slices []*discoveryv1.EndpointSlice) *service {
	s := &service{endpoints: map[string][]netip.Addr{}, ports: map[string][]target{}}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		s.external = strings.ToLower(strings.TrimSuffix(svc.Spec.ExternalName, ".")) + "."
		return s
	}
	s.headless = svc.Spec.ClusterIP == corev1.ClusterIPNone
	if !s.headless {
		s.addClusterIPs(svc)
	}
	for _, slice := range slices {
		s.addSlice(slice, svc.Spec.PublishNotReadyAddresses)
	}
	s.sort()
	return s
}

func (s *service) addClusterIPs(svc *corev1.Service) {
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{svc.Spec.ClusterIP}
	}
	for _, ip := range ips {
		if addr, err := netip.ParseAddr(ip); err == nil {
			s.addresses = append(s.addresses, addr.Unmap())
		}
	}
	for _, p := range svc.Spec.Ports {
		if labels, ok := portLabels(p.Name, p.Protocol); ok {
			s.ports[labels] = append(s.ports[labels], target{port: uint16(p.Port)})
		}
	}
}

func portLabels(name string, proto corev1.Protocol) (string, bool) {
	if proto == "" {
		proto = corev1.ProtocolTCP
	}
	return "_" + strings.ToLower(name) + "._" + strings.ToLower(string(proto)), name != ""
}

func (s *service) addSlice(slice *discoveryv1.EndpointSlice, notReadyToo bool) {
	if slice.AddressType == discoveryv1.AddressTypeFQDN {
		return
	}
	for _, ep := range slice.Endpoints {
		if ready := ep.Conditions.Ready; ready != nil && !*ready && !notReadyToo {
			continue
		}
		for _, text := range ep.Addresses {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			s.addEndpoint(slice, ep.Hostname, addr.Unmap())
		}
	}
}

func (s *service) addEndpoint(slice *discoveryv1.EndpointSlice, hostname *string, addr netip.Addr) {
	host := dashed(addr)
	if hostname != nil && *hostname != "" {
		host = strings.ToLower(*hostname)
	}
	s.endpoints[host] = append(s.endpoints[host], addr)
	if !s.headless {
		return
	}
	s.addresses = append(s.addresses, addr)
	for _, p := range slice.Ports {
		if p.Name == nil || p.Port == nil {
			continue
		}
		proto := corev1.ProtocolTCP
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		if labels, ok := portLabels(*p.Name, proto); ok {
			s.ports[labels] = append(s.ports[labels], target{host: host, port: uint16(*p.Port)})
		}
	}
}

// sort makes equal services equal, whatever order their slices came in, and
// drops what two slices say both.
func (s *service) sort() {
	if s.headless {
		s.addresses = ordered(s.addresses)
	}
	for host, addrs := range s.endpoints {
		s.endpoints[host] = ordered(addrs)
	}
	for labels, targets := range s.ports {
		slices.SortFunc(targets, func(a, b target) int {
			if c := strings.Compare(a.host, b.host); c != 0 {
				return c
			}
			return int(a.port) - int(b.port)
		})
		s.ports[labels] = slices.Compact(targets)
	}
}

func ordered(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

func (s *service) equal(o *service) bool {
	return s.external == o.external && s.headless == o.headless && slices.Equal(s.addresses, o.addresses) &&
		maps.EqualFunc(s.endpoints, o.endpoints, slices.Equal[[]netip.Addr]) &&
		maps.EqualFunc(s.ports, o.ports, slices.Equal[[]target])
}

// eachName calls f for every address and the name it has by this service.
func (s *service) eachName(k key, domain string, f func(addr netip.Addr, name string)) {
	own := k.name + "." + k.namespace + "." + serviceLabel + "." + domain
	if !s.headless {
		for _, addr := range s.addresses {
			f(addr, own)
		}
	}
	for host, addrs := range s.endpoints {
		for _, addr := range addrs {
			f(addr, host+"."+own)
		}
	}
}

// dashed is the name of an endpoint or a pod that has no other.
func dashed(addr netip.Addr) string {
	if addr.Is4() {
		return strings.ReplaceAll(addr.String(), ".", "-")
	}
	return strings.ReplaceAll(addr.StringExpanded(), ":", "-")
}

// undashed is the inverse. Shortened IPv6 addresses are understood too.
func undashed(label string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil {
		return addr, true
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return addr, err == nil
}
