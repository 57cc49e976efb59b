package netdp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// routeProtocol marks the routes that are ours: no routing daemon has this
	// number (/etc/iproute2/rt_protos).
	routeProtocol = 115
	// hostRouteMetric lets an administrator's own route to a range win.
	hostRouteMetric = 7946
	// formerTable had routes of pods to hosts behind the tunnel, and a rule that
	// led there, until the programs took that over.
	formerTable = 7946
)

// routeKey is what the kernel tells our routes apart by.
type routeKey struct {
	table int
	dst   netip.Prefix
}

// routeTo is all else that matters of a route of ours. The tunnel's end is
// not among it, since it is always via.
type routeTo struct {
	via  netip.Addr
	link int
	src  netip.Addr
	// refused: there is no way, and no wider route is to be one.
	refused bool
}

// setHostRoutes adds, replaces in place, and then removes. A route that fails
// makes its host unreachable and stops no other. links are those whose numbers
// are known. What is in the refused ranges has no other way, nor has what is for pods of
// a host without a way: by a wider route it would leave for strangers.
func (d *Datapath) setHostRoutes(routes []HostRoute, links map[string]int, refused []netip.Prefix) error {
	have, err := d.hostRoutes()
	if err != nil {
		return err
	}
	src, src6 := d.routeSource(false), d.routeSource(true)
	var errs []error
	keep := map[routeKey]bool{}
	refuse := func(p netip.Prefix) {
		key, to := routeKey{unix.RT_TABLE_MAIN, p.Masked()}, routeTo{refused: true}
		keep[key] = true
		if have[key] == to {
			return
		}
		if err := d.nl.RouteReplace(d.kernelRoute(key, to)); err != nil {
			errs = append(errs, fmt.Errorf("route that refuses %s: %w", p, err))
		}
	}
	for _, p := range refused {
		refuse(p)
	}
	for i, r := range routes {
		if r.Path == PathUnreachable {
			if r.owned && (d.kernelHasIPv6 || r.PodCIDR.Addr().Is4()) {
				refuse(r.PodCIDR)
			}
			continue
		}
		index, err := d.linkIndexOf(r.Device, links)
		to := routeTo{via: r.Via, link: index, src: src}
		if r.PodCIDR.Addr().Is6() {
			to.src = src6
			if r.Path == PathVXLAN {
				to.via = tunnelNeighbour(r.Via)
			}
		}
		if r.Path == PathWireGuard {
			to.via = netip.Addr{} // the device knows whose a packet is
		}
		key := routeKey{unix.RT_TABLE_MAIN, r.PodCIDR}
		keep[key] = true
		// What a tunnel route was made with cannot be read back whole, so a new
		// daemon writes each once.
		if old, ok := have[key]; err == nil && (!ok || old != to || !d.routesWritten) {
			route := d.kernelRoute(key, to)
			if r.Path == PathVXLAN {
				route.Encap = &tunnelEncap{id: uint64(d.opts.VNI), dst: r.Via, src: src}
				if !key.dst.Addr().Is6() { // a link-local neighbour is on the link anyway
					route.Flags = int(netlink.FLAG_ONLINK)
				}
			}
			err = d.nl.RouteReplace(route)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("route to host %s: %w", r.Host, err))
			routes[i] = unreachable(r, "its route cannot be set: "+err.Error())
			refuse(r.PodCIDR)
		}
	}
	for key, to := range have {
		if keep[key] {
			continue
		}
		err := d.nl.RouteDel(d.kernelRoute(key, to))
		if err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to %s: %w", key.dst, err))
		}
	}
	d.routesWritten = len(errs) == 0
	return errors.Join(errs...)
}

func (d *Datapath) linkIndexOf(name string, known map[string]int) (int, error) {
	if index, ok := known[name]; ok {
		return index, nil
	}
	link, err := d.nl.LinkByName(name)
	if err != nil {
		return 0, err
	}
	known[name] = link.Attrs().Index
	return known[name], nil
}

// tunnelNeighbour stands for the host at the tunnel's other end in a route of
// IPv6, which needs a neighbour of its own family: fe80:: and the host's address.
func tunnelNeighbour(host netip.Addr) netip.Addr {
	b := [16]byte{0xfe, 0x80}
	v4 := host.As4()
	copy(b[12:], v4[:])
	return netip.AddrFrom16(b)
}

func (d *Datapath) kernelRoute(key routeKey, to routeTo) *netlink.Route {
	r := &netlink.Route{
		Table: key.table, Dst: ipNet(key.dst), Gw: to.via.AsSlice(), LinkIndex: to.link,
		Protocol: routeProtocol, Priority: hostRouteMetric,
	}
	if to.refused {
		r.Type = unix.RTN_UNREACHABLE
	}
	if to.src.IsValid() {
		r.Src = to.src.AsSlice()
	}
	return r
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// families are those that the host's kernel knows routes of.
func (d *Datapath) families() []int {
	if d.kernelHasIPv6 {
		return []int{netlink.FAMILY_V4, netlink.FAMILY_V6}
	}
	return []int{netlink.FAMILY_V4}
}

// hostRoutes reads the routes that are ours, whichever daemon made them.
func (d *Datapath) hostRoutes() (map[routeKey]routeTo, error) {
	var list []netlink.Route
	for _, family := range d.families() {
		some, err := d.nl.RouteListFiltered(family,
			&netlink.Route{Table: unix.RT_TABLE_UNSPEC, Protocol: routeProtocol},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return nil, fmt.Errorf("list routes to hosts: %w", err)
		}
		list = append(list, some...)
	}
	out := make(map[routeKey]routeTo, len(list))
	for _, r := range list {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		if !ok {
			continue
		}
		bits, _ := r.Dst.Mask.Size()
		via, _ := netip.AddrFromSlice(r.Gw)
		src, _ := netip.AddrFromSlice(r.Src)
		to := routeTo{via: via.Unmap(), link: r.LinkIndex, src: src.Unmap()}
		if r.Type == unix.RTN_UNREACHABLE { // of IPv6 the kernel says that it is by loopback
			to = routeTo{refused: true}
		}
		out[routeKey{r.Table, netip.PrefixFrom(addr.Unmap(), bits)}] = to
	}
	return out, nil
}

// removeFormerRules takes away what an earlier version left. Any rule slows every
// lookup of the host's down.
func (d *Datapath) removeFormerRules() error {
	if d.routesWritten {
		return nil
	}
	for _, family := range d.families() {
		rules, err := d.nl.RuleListFiltered(family, &netlink.Rule{Table: formerTable}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // CONFIG_IP_MULTIPLE_TABLES
			return fmt.Errorf("list routing rules: %w", err)
		}
		for _, r := range rules {
			if r.Table != formerTable || r.Priority != formerTable {
				continue
			}
			r.Family = family
			if err := d.nl.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove routing rule: %w", err)
			}
		}
	}
	return nil
}

// removeHosts takes away all that SetHosts made.
func (d *Datapath) removeHosts() error {
	return errors.Join(d.removeFormerRules(), d.setHostRoutes(nil, nil, nil), d.removeGather(), d.removeTunnel(), d.removeWire())
}
