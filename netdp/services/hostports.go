package services

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"shoal/netdp"
)

// HostPorts turns the hostPorts of a pod into what the datapath forwards. It is
// pure. A pod gets its ports with its first address, ready or not, and loses
// them when it ends, as with Kubernetes' portmap plugin. A pod of the host's own
// network has its ports by itself. host are this host's addresses.
func HostPorts(pod *corev1.Pod, host []netip.Addr) []netdp.Service {
	if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var out []netdp.Service
	for _, port := range containerPorts(&pod.Spec) {
		proto, ok := protocol(port.Protocol)
		if !ok || port.HostPort <= 0 {
			continue
		}
		for _, backend := range podAddrs(pod) {
			s := netdp.Service{
				Key:      fmt.Sprintf("pod %s/%s:%d/%s", pod.Namespace, pod.Name, port.HostPort, proto),
				Proto:    proto,
				Backends: []netdp.Backend{{Addr: netip.AddrPortFrom(backend, uint16(port.ContainerPort))}},
			}
			if port.HostIP != "" {
				s.Key += " at " + port.HostIP
			}
			if backend.Is6() {
				s.Key += " by IPv6"
			}
			for _, addr := range hostAddrs(port.HostIP, host) {
				if addr.Is4() == backend.Is4() {
					s.Frontends = append(s.Frontends, netdp.Frontend{Addr: addr, Port: uint16(port.HostPort), Outside: !addr.IsLoopback()})
				}
			}
			if len(s.Frontends) > 0 {
				out = append(out, s)
			}
		}
	}
	return out
}

// hostAddrs are where a port with that hostIP is called: without one at every
// address of the host, from the host itself also at loopback.
func hostAddrs(hostIP string, host []netip.Addr) []netip.Addr {
	if addr, err := netip.ParseAddr(hostIP); err == nil && !addr.IsUnspecified() {
		return []netip.Addr{addr.Unmap()}
	}
	return append(slices.Clone(host), netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
}

// containerPorts are those of containers that run as long as the pod.
func containerPorts(spec *corev1.PodSpec) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for _, c := range spec.Containers {
		out = append(out, c.Ports...)
	}
	for _, c := range spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c.Ports...)
		}
	}
	return out
}

func podAddrs(pod *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, ip := range append([]corev1.PodIP{{IP: pod.Status.PodIP}}, pod.Status.PodIPs...) {
		if addr, err := netip.ParseAddr(ip.IP); err == nil && !slices.Contains(out, addr.Unmap()) {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// wantsHostPorts tells whether a pod is one to follow.
func wantsHostPorts(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && slices.ContainsFunc(containerPorts(&pod.Spec), func(p corev1.ContainerPort) bool {
		return p.HostPort > 0
	})
}
