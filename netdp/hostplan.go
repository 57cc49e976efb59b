package netdp

import (
	"fmt"
	"net/netip"

	"shoal/netdp/wireguard"
)

// hostRules are the ranges that pods of other hosts cannot be in.
type hostRules struct {
	own, services   netip.Prefix
	own6, services6 netip.Prefix  // own6 is not valid: no host's IPv6 is of use
	cell, cell6     netip.Prefix  // those that all hosts' pods are in; not valid: unknown
	key             wireguard.Key // this host's; zero: nothing is encrypted
	// noIPv6: this host's Node has no such address. Others reach its pods by the tunnel
	// then, and want theirs to be reached by it too (bpf/policy.h, is_forged).
	noIPv6 bool
}

func (d *Datapath) hostRules() hostRules {
	o := d.opts
	_, has6 := d.nodeIP(true)
	return hostRules{own: o.PodCIDR, services: o.ServiceCIDR, own6: o.PodCIDR6, services6: o.ServiceCIDR6,
		cell: o.CellPodCIDR, cell6: o.CellPodCIDR6, key: d.hosts.key.Public(), noIPv6: !has6}
}

// reachFunc tells how an address is reached: the way, interface and largest
// packet. A problem means that there is no way.
type reachFunc func(netip.Addr) (way reached, problem string)

type reached struct {
	direct bool
	device string
	mtu    int
}

// planHosts decides the way to every host. Of hosts that claim the same pods or
// the same address, the first one has them. It is pure but for what reach asks.
func planHosts(hosts []Host, rules hostRules, reach reachFunc) []HostRoute {
	out := make([]HostRoute, 0, len(hosts))
	ranges := newRangeClaims()
	addresses := map[netip.Addr]string{}
	keys := map[wireguard.Key]string{}
	for _, h := range hosts {
		r := HostRoute{Host: h.Name, PodCIDR: h.PodCIDR}
		usable := unicast(h.Addresses, false)
		problem := rules.check(h)
		if problem == "" && len(usable) == 0 {
			problem = "its Node has no IPv4 InternalIP address; see that the host's daemon runs"
		}
		for _, a := range usable {
			if holder, taken := addresses[a]; problem == "" && taken && holder != h.Name {
				problem = fmt.Sprintf("its address %s is also that of host %s; give each its own", a, holder)
			}
		}
		if problem == "" {
			if holder := ranges.claim(h.PodCIDR, h.Name); holder != "" {
				problem = fmt.Sprintf("its pod range %s overlaps that of host %s, which came first; give it another range", h.PodCIDR, holder)
			}
		}
		if problem != "" {
			out = append(out, unreachable(r, problem))
			continue
		}
		r.owned = true
		for _, a := range usable {
			addresses[a] = h.Name
		}
		all := usable
		if h.PodCIDR.Addr().Is6() && !rules.noIPv6 {
			all = append(unicast(h.Addresses, true), usable...)
		}
		plain := chooseWay(r, all, reach)
		if rules.key.IsZero() {
			out = append(out, plain)
			continue
		}
		r = encryptedWay(r, h, usable, rules.key, keys, reach)
		if r.Path == PathWireGuard && plain.Path == PathDirect {
			r.onLink = plain.Via
		}
		out = append(out, r)
	}
	for i, h := range hosts { // whoever has a way has its range first
		if r := &out[i]; !r.owned && rules.check(h) == "" {
			r.owned = ranges.claim(h.PodCIDR, h.Name) == ""
		}
	}
	return out
}

func (rules hostRules) check(h Host) string {
	p := h.PodCIDR
	own, services := rules.own, rules.services
	if p.Addr().Is6() && rules.own6.IsValid() {
		own, services = rules.own6, rules.services6
	}
	switch {
	case !p.IsValid():
		return "its Node has no podCIDR yet"
	case p.Addr().Is6() != own.Addr().Is6() || p.Bits() == 0 || p != p.Masked():
		return fmt.Sprintf("its pod range %s is no IPv4 range", p)
	case p.Overlaps(own):
		return fmt.Sprintf("its pod range %s overlaps that of this host, %s; give one of them another range", p, own)
	case services.IsValid() && p.Overlaps(services):
		return fmt.Sprintf("its pod range %s overlaps the services, %s; give it another range", p, services)
	}
	for _, a := range h.Addresses {
		a = a.Unmap()
		// With encryption a host may send from its addresses, and gets what is for them.
		anyPods := !rules.key.IsZero() && (rules.cell.Contains(a) || rules.cell6.Contains(a))
		if own.Contains(a) || p.Contains(a) || anyPods {
			return fmt.Sprintf("its address %s is in a range of pods", a)
		}
	}
	return ""
}

// unicast has the addresses of one family by which another machine is reached.
func unicast(addrs []netip.Addr, v6 bool) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.Is6() == v6 && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast() {
			out = append(out, a)
		}
	}
	return out
}

// chooseWay prefers an address on a shared link; of several the first. A route
// leads by an address of its own family, and the tunnel by IPv4.
func chooseWay(r HostRoute, addrs []netip.Addr, reach reachFunc) HostRoute {
	tunnel, problem := r, ""
	v6 := r.PodCIDR.Addr().Is6()
	for _, a := range addrs {
		way, p := reach(a)
		switch {
		case p != "":
			problem = p
		case way.direct && a.Is6() == v6:
			r.Path, r.Via, r.Device, r.MTU = PathDirect, a, way.device, way.mtu
			return r
		case a.Is6():
			problem = fmt.Sprintf("its address %s is behind a router, and the tunnel needs IPv4", a)
		case v6 && way.mtu-vxlanOverhead < minIPv6MTU:
			problem = fmt.Sprintf("the way to %s carries %d bytes, and IPv6 in the tunnel needs %d", a, way.mtu, minIPv6MTU+vxlanOverhead)
		case tunnel.Path == "":
			tunnel.Path, tunnel.Via, tunnel.Device, tunnel.MTU = PathVXLAN, a, tunnelDevice, way.mtu-vxlanOverhead
		}
	}
	if tunnel.Path == "" {
		return unreachable(r, problem)
	}
	return tunnel
}

// encryptedWay leads to the first of the addresses that is reached, by whatever
// link, once the host has told a key that nobody else has.
func encryptedWay(r HostRoute, h Host, addrs []netip.Addr, own wireguard.Key, keys map[wireguard.Key]string, reach reachFunc) HostRoute {
	problem := ""
	holder, taken := keys[h.WireGuardKey]
	switch {
	case h.WireGuardKey.IsZero():
		problem = "this cell encrypts, and the host has told no key yet; see that its daemon runs"
	case h.WireGuardKey == own:
		problem = "it has the WireGuard key of this host; remove wireguard.key in the data directory of one of them and start its daemon again"
	case taken && holder != h.Name:
		problem = fmt.Sprintf("it has the WireGuard key of host %s; remove wireguard.key in the data directory of one of them and start its daemon again", holder)
	}
	if problem != "" {
		out := unreachable(r, problem)
		out.noKey = true
		return out
	}
	keys[h.WireGuardKey] = h.Name
	for _, a := range addrs {
		way, p := reach(a)
		switch {
		case p != "":
			problem = p
		case r.PodCIDR.Addr().Is6() && way.mtu-wireguard.Overhead < minIPv6MTU:
			problem = fmt.Sprintf("the way to %s carries %d bytes, and IPv6 in WireGuard needs %d", a, way.mtu, minIPv6MTU+wireguard.Overhead)
		default:
			r.Path, r.Via, r.Device, r.MTU = PathWireGuard, a, wireDevice, way.mtu-wireguard.Overhead
			return r
		}
	}
	out := unreachable(r, problem)
	out.noKey = true
	return out
}

// rangeClaims finds out whether a range overlaps one that was claimed before.
// Two ranges overlap when one holds the other, so its parents are looked up,
// and it is looked for among the parents of all others: 33 steps each.
type rangeClaims struct {
	holders map[netip.Prefix]string
	within  map[netip.Prefix]string // ranges that hold a claimed one
}

func newRangeClaims() rangeClaims {
	return rangeClaims{holders: map[netip.Prefix]string{}, within: map[netip.Prefix]string{}}
}

// claim returns who has a part of p already; else p is name's from now on.
func (c rangeClaims) claim(p netip.Prefix, name string) (holder string) {
	if holder, taken := c.within[p]; taken {
		return holder
	}
	for bits := p.Bits(); bits >= 0; bits-- {
		if holder, taken := c.holders[netip.PrefixFrom(p.Addr(), bits).Masked()]; taken {
			return holder
		}
	}
	c.holders[p] = name
	for bits := p.Bits() - 1; bits >= 0; bits-- {
		c.within[netip.PrefixFrom(p.Addr(), bits).Masked()] = name
	}
	return ""
}
