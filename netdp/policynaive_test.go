package netdp

import (
	"net"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The verdicts of NetworkPolicies as the text of the API (networking.k8s.io/v1)
// has them, sentence by sentence, as simply as can be. Nothing is shared with
// what is tested.

// naiveEnd is one end of a connection. pod is nil for what is no pod.
type naiveEnd struct {
	pod  *corev1.Pod
	addr string
}

type naiveCell struct {
	namespaces map[string]map[string]string // labels by name
	policies   []*networkingv1.NetworkPolicy
}

// allows: the egress policies of the source and the ingress policies of the
// destination both have to.
func (c *naiveCell) allows(from, to naiveEnd, proto corev1.Protocol, port int32) bool {
	return c.side(networkingv1.PolicyTypeEgress, from, to, to, proto, port) &&
		c.side(networkingv1.PolicyTypeIngress, to, from, to, proto, port)
}

func (c *naiveCell) side(kind networkingv1.PolicyType, self, other, called naiveEnd, proto corev1.Protocol, port int32) bool {
	if self.pod == nil {
		return true
	}
	isolated := false
	for _, p := range c.policies {
		if p.Namespace != self.pod.Namespace || !naiveSelects(&p.Spec.PodSelector, self.pod.Labels) || !naiveHasType(p, kind) {
			continue
		}
		isolated = true
		if kind == networkingv1.PolicyTypeIngress {
			for _, r := range p.Spec.Ingress {
				if c.peers(p, r.From, other) && naivePorts(r.Ports, called, proto, port) {
					return true
				}
			}
			continue
		}
		for _, r := range p.Spec.Egress {
			if c.peers(p, r.To, other) && naivePorts(r.Ports, called, proto, port) {
				return true
			}
		}
	}
	return !isolated
}

// "If no policyTypes are specified ... Ingress will always be set and Egress will
// be set if the NetworkPolicy has any egress rules."
func naiveHasType(p *networkingv1.NetworkPolicy, kind networkingv1.PolicyType) bool {
	if len(p.Spec.PolicyTypes) > 0 {
		return slices.Contains(p.Spec.PolicyTypes, kind)
	}
	return kind == networkingv1.PolicyTypeIngress || len(p.Spec.Egress) > 0
}

// "If this field is empty or missing, this rule matches all sources."
func (c *naiveCell) peers(p *networkingv1.NetworkPolicy, peers []networkingv1.NetworkPolicyPeer, other naiveEnd) bool {
	if len(peers) == 0 {
		return true
	}
	for _, peer := range peers {
		if peer.IPBlock != nil {
			if naiveBlock(peer.IPBlock, other.addr) {
				return true
			}
			continue
		}
		if other.pod == nil {
			continue
		}
		inNamespace := other.pod.Namespace == p.Namespace
		if peer.NamespaceSelector != nil {
			inNamespace = naiveSelects(peer.NamespaceSelector, c.namespaces[other.pod.Namespace])
		}
		if inNamespace && (peer.PodSelector == nil || naiveSelects(peer.PodSelector, other.pod.Labels)) {
			return true
		}
	}
	return false
}

func naiveBlock(b *networkingv1.IPBlock, addr string) bool {
	ip := net.ParseIP(addr)
	in := func(cidr string) bool {
		_, n, err := net.ParseCIDR(cidr)
		return err == nil && n.Contains(ip)
	}
	return in(b.CIDR) && !slices.ContainsFunc(b.Except, in)
}

// "If this field is empty or missing, this rule matches all ports."
func naivePorts(ports []networkingv1.NetworkPolicyPort, called naiveEnd, proto corev1.Protocol, port int32) bool {
	if len(ports) == 0 {
		return true
	}
	for _, p := range ports {
		want := corev1.ProtocolTCP
		if p.Protocol != nil {
			want = *p.Protocol
		}
		if want != proto {
			continue
		}
		switch {
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.String:
			if called.pod == nil {
				continue
			}
			for _, c := range called.pod.Spec.Containers {
				for _, cp := range c.Ports {
					if cp.Name == p.Port.StrVal && cp.Protocol == proto && cp.ContainerPort == port {
						return true
					}
				}
			}
		case p.EndPort != nil:
			if p.Port.IntVal <= port && port <= *p.EndPort {
				return true
			}
		case p.Port.IntVal == port:
			return true
		}
	}
	return false
}

// "The requirements are ANDed." "An empty label selector matches all objects."
func naiveSelects(s *metav1.LabelSelector, labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		have, ok := labels[e.Key]
		fits := false
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			fits = ok && slices.Contains(e.Values, have)
		case metav1.LabelSelectorOpNotIn:
			fits = !ok || !slices.Contains(e.Values, have)
		case metav1.LabelSelectorOpExists:
			fits = ok
		case metav1.LabelSelectorOpDoesNotExist:
			fits = !ok
		}
		if !fits {
			return false
		}
	}
	return true
}
