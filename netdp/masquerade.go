package netdp

import (
	"errors"
	"fmt"
	"net/netip"

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
	want := map[uint32]uint32{}
	var errs []error
	if !d.opts.NoMasquerade {
		errs = append(errs, d.uplinkDefaultRoutes())
		for _, name := range d.uplinkNames() {
			index, addr, err := d.outsideAddress(name)
			if err != nil {
				errs = append(errs, err)
			} else if addr.IsValid() {
				want[uint32(index)] = podKey(addr)
			}
		}
	}
	return errors.Join(append(errs, syncMap("masquerades", d.maps[bpf.DatapathMapMasquerades], want))...)
}

func (d *Datapath) insideRanges(hosts []Host) map[bpf.DatapathRangeKey]uint32 {
	out := map[bpf.DatapathRangeKey]uint32{}
	add := func(p netip.Prefix) {
		if p.IsValid() && p.Addr().Is4() {
			p = p.Masked()
			out[bpf.DatapathRangeKey{Bits: uint32(p.Bits()), Addr: podKey(p.Addr())}] = 1
		}
	}
	add(d.opts.PodCIDR)
	add(d.opts.CellPodCIDR)
	for _, p := range d.opts.MasqueradeExcept {
		add(p)
	}
	for _, a := range d.opts.NodeIPs {
		add(netip.PrefixFrom(a, a.BitLen()))
	}
	for _, h := range hosts {
		add(h.PodCIDR)
		for _, a := range ipv4Addresses(h.Addresses) {
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

// outsideAddress is the address that packets of this host's own leave an
// interface with: the node's if the interface has it, or else its first global
// one. Invalid: it has none, or is gone.
func (d *Datapath) outsideAddress(name string) (index int, addr netip.Addr, err error) {
	link, err := d.nl.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return 0, netip.Addr{}, nil
	}
	if err != nil {
		return 0, netip.Addr{}, fmt.Errorf("find uplink %s: %w", name, err)
	}
	index = link.Attrs().Index
	addrs, err := d.nl.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return index, netip.Addr{}, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	node, _ := d.opts.nodeIPv4()
	for _, a := range addrs {
		have, ok := netip.AddrFromSlice(a.IP.To4())
		if !ok || a.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		if have == node || !addr.IsValid() {
			addr = have
		}
	}
	if !addr.IsValid() {
		addr = node // kept on loopback, and announced by a routing protocol
	}
	return index, addr, nil
}
