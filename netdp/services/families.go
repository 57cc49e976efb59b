package services

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"shoal/netdp"
)

// Translate turns a Service and all its EndpointSlices into what the datapath
// forwards: one entry for each port of TCP or UDP and each family the service
// has. It is pure. A service without a cluster IP (headless, ExternalName) gives
// none.
func Translate(svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice, here Place) []netdp.Service {
	if len(svc.Spec.IPFamilies) == 0 {
		return translate(svc, endpoints, here)
	}
	var out []netdp.Service
	for _, family := range svc.Spec.IPFamilies {
		some := translate(ofFamily(svc, family), endpoints, here)
		if family == corev1.IPv6Protocol {
			for i := range some {
				asIPv6(&some[i])
			}
		}
		out = append(out, some...)
	}
	return out
}

// asIPv6 tells the entry apart from that of IPv4.
func asIPv6(s *netdp.Service) {
	s.Key += "/IPv6"
	for i := range s.Frontends {
		if !s.Frontends[i].Addr.IsValid() {
			s.Frontends[i].Addr = netdp.NodePortIPv6
		}
	}
}

// ofFamily is the service as one that has no other family would be.
func ofFamily(svc *corev1.Service, family corev1.IPFamily) *corev1.Service {
	if len(svc.Spec.IPFamilies) == 1 && len(svc.Spec.ExternalIPs) == 0 && len(svc.Status.LoadBalancer.Ingress) == 0 {
		return svc // most are so
	}
	one := *svc
	one.Spec.IPFamilies = []corev1.IPFamily{family}
	one.Spec.ExternalIPs = textsOf(svc.Spec.ExternalIPs, family)
	if len(svc.Spec.ClusterIPs) > 1 {
		one.Spec.ClusterIPs = textsOf(svc.Spec.ClusterIPs, family)
		if len(one.Spec.ClusterIPs) > 0 {
			one.Spec.ClusterIP = one.Spec.ClusterIPs[0]
		}
	}
	one.Status.LoadBalancer.Ingress = nil
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if isOf(in.IP, family) {
			one.Status.LoadBalancer.Ingress = append(one.Status.LoadBalancer.Ingress, in)
		}
	}
	return &one
}

func textsOf(addrs []string, family corev1.IPFamily) []string {
	var out []string
	for _, text := range addrs {
		if isOf(text, family) {
			out = append(out, text)
		}
	}
	return out
}

func isOf(text string, family corev1.IPFamily) bool {
	addr, err := netip.ParseAddr(text)
	return err == nil && addr.Unmap().Is6() == (family == corev1.IPv6Protocol)
}
