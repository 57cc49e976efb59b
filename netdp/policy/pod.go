package policy

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"shoal/netdp/policy/tables"
)

// Pod is what matters of a pod.
type Pod struct {
	UID       string
	Namespace string
	Name      string
	// Mirror is the uid that the host gave the static pod this one shows, as an
	// annotation claims.
	Mirror string
	Labels map[string]string
	Ports  []NamedPort
	// Addrs is empty for a pod that has no network of its own: one of the host's
	// network, or one that has ended.
	Addrs []netip.Addr
}

// NamedPort is a port of a container that has a name.
type NamedPort = tables.NamedPort

// IdentityOf reads what policies know a pod by.
func IdentityOf(p *corev1.Pod) *tables.Identity {
	return &tables.Identity{Labels: p.Labels, Ports: namedPorts(p)}
}

func (p *Pod) identity() *tables.Identity {
	return &tables.Identity{Labels: p.Labels, Ports: p.Ports}
}

// PodOf reads a pod.
func PodOf(p *corev1.Pod) Pod {
	out := Pod{
		UID: string(p.UID), Namespace: p.Namespace, Name: p.Name, Labels: p.Labels,
		Mirror: p.Annotations[corev1.MirrorPodAnnotationKey], Ports: namedPorts(p),
	}
	if !ownNetwork(p) {
		return out
	}
	for _, ip := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			out.Addrs = append(out.Addrs, addr.Unmap())
		}
	}
	return out
}

// ownNetwork tells whether policies apply to a pod: not in the host's network,
// and not when it has ended and another pod may have its address.
func ownNetwork(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func namedPorts(p *corev1.Pod) []NamedPort {
	var out []NamedPort
	add := func(c *corev1.Container) {
		for _, port := range c.Ports {
			if port.Name != "" {
				out = append(out, NamedPort{Name: port.Name, Protocol: protocolNumber(port.Protocol), Port: uint16(port.ContainerPort)})
			}
		}
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return out
}

// IANA's numbers.
const (
	protocolTCP  = 6
	protocolUDP  = 17
	protocolSCTP = 132
)

// protocolNumber takes an absent protocol for TCP, as the API does.
func protocolNumber(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolUDP:
		return protocolUDP
	case corev1.ProtocolSCTP:
		return protocolSCTP
	}
	return protocolTCP
}

// protocolName is the other way round.
func protocolName(number uint8) corev1.Protocol {
	switch number {
	case protocolUDP:
		return corev1.ProtocolUDP
	case protocolSCTP:
		return corev1.ProtocolSCTP
	}
	return corev1.ProtocolTCP
}

func (p Pod) equal(q Pod) bool {
	return p.UID == q.UID && p.Namespace == q.Namespace && p.Name == q.Name && p.Mirror == q.Mirror &&
		maps.Equal(p.Labels, q.Labels) && slices.Equal(p.Ports, q.Ports) && slices.Equal(p.Addrs, q.Addrs)
}
