package placement

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"
)

// hostPort is a port of the host that a pod occupies. The address 0.0.0.0
// stands for all of them.
type hostPort struct {
	protocol v1.Protocol
	address  string
	port     int32
}

const anyAddress = "0.0.0.0"

func hostPortsOf(pod *v1.Pod) []hostPort {
	var ports []hostPort
	collect := func(c *v1.Container) {
		for i := range c.Ports {
			if p := &c.Ports[i]; p.HostPort > 0 {
				ports = append(ports, newHostPort(p))
			}
		}
	}
	for i := range pod.Spec.Containers {
		collect(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			collect(c)
		}
	}
	slices.SortFunc(ports, func(a, b hostPort) int {
		return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.address, b.address))
	})
	return slices.Compact(ports)
}

func newHostPort(p *v1.ContainerPort) hostPort {
	port := hostPort{protocol: p.Protocol, address: p.HostIP, port: p.HostPort}
	if port.protocol == "" {
		port.protocol = v1.ProtocolTCP
	}
	if port.address == "" || port.address == "::" {
		port.address = anyAddress
	}
	return port
}

func (p hostPort) conflicts(other hostPort) bool {
	return p.port == other.port && p.protocol == other.protocol &&
		(p.address == other.address || p.address == anyAddress || other.address == anyAddress)
}

// portUse counts the pods that hold a port; two may hold one when a node's own
// pods (which nobody scheduled) overlap.
type portUse map[hostPort]int

func (u portUse) free(wanted []hostPort) bool {
	for _, want := range wanted {
		for used := range u {
			if want.conflicts(used) {
				return false
			}
		}
	}
	return true
}

func (n *node) usePorts(ports []hostPort, sign int) {
	for _, p := range ports {
		if n.ports == nil {
			n.ports = portUse{}
		}
		if n.ports[p] += sign; n.ports[p] == 0 {
			delete(n.ports, p)
		}
	}
}
