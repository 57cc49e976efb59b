package services

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"shoal/netdp"
)

// Reserved is a port at which the daemons of the cell hear each other. No service
// or hostPort gets it at an address of a host: it would take the callers away.
type Reserved struct {
	Proto netdp.Proto
	Port  uint16
	// What has it, in a word or two for people.
	What string
	// Tunnel ports are no endpoint at a host's address either. What is called there
	// comes from a host, as packets of the tunnel do, and they say of themselves
	// which pod they are from.
	Tunnel bool
}

// hosts are the addresses of the cell's hosts.
type hosts map[netip.Addr]struct{}

func hostsOf(nodes []*corev1.Node, here []netip.Addr) hosts {
	out := hosts{}
	for _, a := range here {
		out[a] = struct{}{}
	}
	for _, n := range nodes {
		for _, a := range n.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil {
				out[addr.Unmap()] = struct{}{}
			}
		}
	}
	return out
}

func (h hosts) has(addr netip.Addr) bool {
	_, ok := h[addr]
	return ok || addr.IsLoopback()
}

func (h hosts) hasText(text string) bool {
	addr, err := netip.ParseAddr(text)
	return err == nil && h.has(addr.Unmap())
}

// differ are those that only one of the two has.
func differ(a, b hosts) hosts {
	out := hosts{}
	for _, pair := range [][2]hosts{{a, b}, {b, a}} {
		for addr := range pair[0] {
			if _, ok := pair[1][addr]; !ok {
				out[addr] = struct{}{}
			}
		}
	}
	return out
}

// guard leaves out what is at the daemons' own ports of the cell's hosts, and what
// has no address then. refused says what that was, for people. It is pure.
func guard(services []netdp.Service, ports []Reserved, cell hosts) (out []netdp.Service, refused []string) {
	for _, s := range services {
		had := len(s.Frontends)
		s.Frontends = slices.DeleteFunc(s.Frontends, func(f netdp.Frontend) bool {
			r := reservedAt(ports, s.Proto, f.Port)
			if r == nil || !cell.has(f.Addr) && f.Addr.IsValid() && !f.Addr.IsUnspecified() {
				return false
			}
			refused = append(refused, fmt.Sprintf("%s %s is of shoal's own %s", s.Proto, f, r.What))
			return true
		})
		s.Backends = slices.DeleteFunc(s.Backends, func(b netdp.Backend) bool {
			r := reservedAt(ports, s.Proto, b.Addr.Port())
			if r == nil || !r.Tunnel || !cell.has(b.Addr.Addr()) {
				return false
			}
			refused = append(refused, fmt.Sprintf("endpoint %s %s is of shoal's own %s", s.Proto, b.Addr, r.What))
			return true
		})
		if had == 0 || len(s.Frontends) > 0 {
			out = append(out, s)
		}
	}
	slices.Sort(refused)
	return out, slices.Compact(refused)
}

func reservedAt(ports []Reserved, proto netdp.Proto, port uint16) *Reserved {
	for i := range ports {
		if ports[i].Proto == proto && ports[i].Port == port {
			return &ports[i]
		}
	}
	return nil
}

// maxRefusedTold bounds an Event; Kubernetes takes 1,024 bytes.
const maxRefusedTold = 5

// tellRefused tells once, for as long as it is the same.
func (c *Controller) tellRefused(key string, refused []string) {
	if len(refused) == 0 {
		delete(c.refused, key)
		return
	}
	all := len(refused)
	message := strings.Join(refused[:min(all, maxRefusedTold)], "; ")
	if all > maxRefusedTold {
		message += fmt.Sprintf("; and %d more", all-maxRefusedTold)
	}
	message = fmt.Sprintf("not forwarded: %s. Hosts of the cell would not hear each other, or believe who only claims to be one. "+
		"Use another port, or an address that no host has", message)
	if c.refused[key] == message {
		return
	}
	c.refused[key] = message
	c.log.Warn("a service or hostPort wants a port of the daemons", "service", key, "refused", refused)
	if ref := c.reference(key); ref != nil && c.o.Events != nil {
		c.o.Events.Event(ref, corev1.EventTypeWarning, reasonReserved, message)
	}
}

// setHosts has the services and pods done anew that name an address of a host that
// has come or gone.
func (c *Controller) setHosts(nodes []*corev1.Node) {
	c.setOwn(c.dp.NodeIPs())
	next := hostsOf(nodes, c.dp.NodeIPs())
	c.mu.Lock()
	changed := differ(c.hosts, next)
	c.hosts = next
	c.mu.Unlock()
	if len(changed) == 0 || len(c.o.Reserved) == 0 {
		return
	}
	all, err := c.services.List(labels.Everything())
	if err != nil {
		c.log.Warn("list services", "error", err)
	}
	for _, svc := range all {
		named := slices.ContainsFunc(svc.Spec.ExternalIPs, changed.hasText) ||
			slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool { return changed.hasText(in.IP) })
		if named {
			c.queue.Add(svc.Namespace + "/" + svc.Name)
		}
	}
	for _, obj := range c.slices.List() {
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok && slices.ContainsFunc(slice.Ports, c.isTunnel) {
			c.again(slice, func(ep discoveryv1.Endpoint) bool { return slices.ContainsFunc(ep.Addresses, changed.hasText) })
		}
	}
	for _, obj := range c.o.Informers.Core().V1().Pods().Informer().GetStore().List() {
		pod, ok := obj.(*corev1.Pod)
		if !ok || !slices.ContainsFunc(containerPorts(&pod.Spec), func(p corev1.ContainerPort) bool { return changed.hasText(p.HostIP) }) {
			continue
		}
		if key, err := c.podKey(pod); err == nil && key != "" {
			c.queue.Add(key)
		}
	}
}

// setOwn has hostPorts done anew when this host has another address: without a hostIP
// they are called at each.
func (c *Controller) setOwn(ips []netip.Addr) {
	if slices.Equal(c.own, ips) {
		return
	}
	c.own = ips
	for _, obj := range c.o.Informers.Core().V1().Pods().Informer().GetStore().List() {
		if key, err := c.podKey(obj); err == nil && key != "" {
			c.queue.Add(key)
		}
	}
}

func (c *Controller) isTunnel(p discoveryv1.EndpointPort) bool {
	if p.Port == nil || p.Protocol == nil || *p.Protocol != corev1.ProtocolUDP {
		return false
	}
	r := reservedAt(c.o.Reserved, netdp.UDP, uint16(*p.Port))
	return r != nil && r.Tunnel
}

func (c *Controller) cellHosts() hosts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hosts // replaced as a whole, never changed
}
