package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// maxInside bounds the ranges that see pods by their own addresses: one for the
// pods and a few addresses of every host, and what Options name.
const maxInside = 5 * maxHosts

// setMasquerade lets pods call the world outside (bpf/masquerade.h). Who is not
// outside is written first: to these a pod keeps its own address.
func (d *Datapath) setMasquerade(hosts []Host) error {
	err := syncMap("addresses inside", d.maps[bpf.DatapathMapInside], d.insideRanges(hosts))
	if err != nil {
		return err // better no way out than a wrong address inside
	}
	want := map[uint32]bpf.DatapathMasquerade{}
	var errs []error
	if !d.opts.NoMasquerade {
		errs = append(errs, d.uplinkDefaultRoutes())
		for _, name := range d.uplinkNames() {
			index, m, err := d.outsideAddresses(name)
			if err != nil {
				errs = append(errs, err)
			} else if m != (bpf.DatapathMasquerade{}) {
				want[uint32(index)] = m
			}
		}
	}
	return errors.Join(append(errs, syncMap("masquerades", d.maps[bpf.DatapathMapMasquerades], want))...)
}

func (d *Datapath) insideRanges(hosts []Host) map[bpf.DatapathRangeKey]uint32 {
	out := map[bpf.DatapathRangeKey]uint32{}
	add := func(p netip.Prefix) {
		if p.IsValid() {
			out[rangeKey(p.Masked())] = 1
		}
	}
	add(d.opts.PodCIDR)
	add(d.opts.PodCIDR6)
	add(d.opts.CellPodCIDR)
	add(d.opts.CellPodCIDR6)
	for _, p := range d.opts.MasqueradeExcept {
		add(p)
	}
	for _, a := range d.NodeIPs() {
		add(netip.PrefixFrom(a, a.BitLen()))
	}
	for _, h := range hosts {
		add(h.PodCIDR)
		for _, a := range slices.Concat(unicast(h.Addresses, false), unicast(h.Addresses, true)) {
			add(netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

// uplinkDefaultRoutes also serves the interfaces by which the world is reached,
// unless the administrator chose the uplinks.
func (d *Datapath) uplinkDefaultRoutes() error {
	if len(d.opts.Uplinks) > 0 {
		return nil
	}
	names, err := d.defaultRouteLinks()
	errs := []error{err}
	for _, name := range names {
		errs = append(errs, d.addUplink(name))
	}
	return errors.Join(errs...)
}

// outsideAddresses are those that packets of this host's own leave an interface
// with, one for each family that pods have. All zero: it has none, or is gone.
func (d *Datapath) outsideAddresses(name string) (index int, m bpf.DatapathMasquerade, err error) {
	link, err := d.nl.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return 0, m, nil
	}
	if err != nil {
		return 0, m, fmt.Errorf("find uplink %s: %w", name, err)
	}
	v4, err := d.outsideAddress(link, false)
	m.Ipv4 = wireAddr(v4)
	if err == nil && d.opts.PodCIDR6.IsValid() {
		var v6 netip.Addr
		v6, err = d.outsideAddress(link, true)
		m.Ipv6 = wireAddr(v6)
	}
	return link.Attrs().Index, m, err
}

// outsideAddress is the node's if the interface has it, or else its first global
// one; of IPv6 rather one that the world knows than a unique local one (RFC 4193).
func (d *Datapath) outsideAddress(link netlink.Link, v6 bool) (addr netip.Addr, err error) {
	node, _ := d.nodeIP(v6)
	family := netlink.FAMILY_V4
	if v6 {
		family = netlink.FAMILY_V6
	}
	addrs, err := d.nl.AddrList(link, family)
	if err != nil {
		return addr, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range addrs {
		have, ok := netip.AddrFromSlice(a.IP)
		have = have.Unmap()
		if !ok || a.Scope != unix.RT_SCOPE_UNIVERSE || v6 && a.Flags&passingFlags != 0 {
			continue
		}
		if have == node || !addr.IsValid() || addr != node && addr.IsPrivate() && v6 && !have.IsPrivate() {
			addr = have
		}
	}
	if !addr.IsValid() {
		addr = node // kept on loopback, and announced by a routing protocol
	}
	return addr, nil
}

// passingFlags are of IPv6 addresses that are not yet, or soon no longer, the
// host's: they would end connections with them.
const passingFlags = unix.IFA_F_TENTATIVE | unix.IFA_F_DEPRECATED | unix.IFA_F_DADFAILED | unix.IFA_F_TEMPORARY
