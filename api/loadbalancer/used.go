package loadbalancer

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// hosts are the addresses of hosts, with the hosts' names.
func (c *Controller) hosts() map[netip.Addr]string {
	hosts := map[netip.Addr]string{}
	nodes, _ := c.nodes.List(labels.Everything()) // from memory
	for _, n := range nodes {
		for _, a := range hostAddresses(n) {
			hosts[a] = n.Name
		}
	}
	return hosts
}

// used returns what tells whose an address is that no service may have, though a
// pool has it: a host would lose its own.
func (c *Controller) used(hosts map[netip.Addr]string) func(netip.Addr) string {
	return func(a netip.Addr) string {
		if name, ok := hosts[a]; ok {
			return "an address of host " + name
		}
		for _, r := range c.o.Ranges {
			if r.Contains(a) {
				return "in the cell's own range " + r.String()
			}
		}
		return ""
	}
}

func hostAddresses(n *corev1.Node) []netip.Addr {
	var all []netip.Addr
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			all = append(all, ip.Unmap())
		}
	}
	return all
}

// nodeUpdated looks again at a service that has an address which is a host's now.
func (c *Controller) nodeUpdated(old, obj any) {
	after, ok := obj.(*corev1.Node)
	if !ok {
		return
	}
	now := hostAddresses(after)
	if before, ok := old.(*corev1.Node); ok && slices.Equal(hostAddresses(before), now) {
		return // its status is written often
	}
	c.countPools()
	for _, a := range now {
		objs, _ := c.services.ByIndex(byAddress, a.String())
		for _, s := range objs {
			c.serviceChanged(s)
		}
	}
}
