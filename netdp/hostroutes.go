package netdp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// routeProtocol marks the routes that are ours: no routing daemon has this
	// number (/etc/iproute2/rt_protos).
	routeProtocol = 115
	// hostRouteMetric lets an administrator's own route to a range win.
	hostRouteMetric = 7946
	// tunnelTable has the routes of pods, and of pods only, to hosts behind
	// the tunnel. On the wire a pod's address would mean nothing to the
	// routers between, while the host itself calls other hosts plainly.
	tunnelTable        = 7946
	tunnelRulePriority = 7946
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
}

// setHostRoutes adds, replaces in place, and then removes. A route that fails
// makes its host unreachable and stops no other.
func (d *Datapath) setHostRoutes(hosts []Host, routes []HostRoute, device int) error {
	have, err := d.hostRoutes()
	if err != nil {
		return err
	}
	src, src6 := d.routeSource(false), d.routeSource(true)
	links := map[string]int{tunnelDevice: device}
	var errs []error
	keep := map[routeKey]bool{}
	for i, r := range routes {
		if r.Path == PathUnreachable {
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
		for _, key := range routeKeys(hosts[i], r) {
			keep[key] = true
			// What a tunnel route was made with cannot be read back whole, so
			// a new daemon writes each once.
			if old, ok := have[key]; err != nil || ok && old == to && d.routesWritten {
				continue
			}
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

// routeKeys are the routes that a host needs: to its pods, and behind the
// tunnel also from our pods to itself.
func routeKeys(h Host, r HostRoute) []routeKey {
	keys := []routeKey{{unix.RT_TABLE_MAIN, r.PodCIDR}}
	if r.Path == PathVXLAN {
		for _, a := range unicast(h.Addresses, r.PodCIDR.Addr().Is6()) {
			keys = append(keys, routeKey{tunnelTable, netip.PrefixFrom(a, a.BitLen())})
		}
	}
	return keys
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
		out[routeKey{r.Table, netip.PrefixFrom(addr.Unmap(), bits)}] = to
	}
	return out, nil
}

// tunnelRule sends what pods of this host say to the table of the tunnel first.
func tunnelRule(pods netip.Prefix) *netlink.Rule {
	r := netlink.NewRule()
	r.Family = familyOf(pods.Addr())
	r.Priority, r.Table, r.Protocol = tunnelRulePriority, tunnelTable, routeProtocol
	r.Src = ipNet(pods)
	return r
}

// setTunnelRules has a rule for each family that goes through the tunnel.
func (d *Datapath) setTunnelRules(routes []HostRoute) error {
	var errs []error
	for _, family := range d.families() {
		v6 := family == netlink.FAMILY_V6
		on := slices.ContainsFunc(routes, func(r HostRoute) bool {
			return r.Path == PathVXLAN && r.PodCIDR.Addr().Is6() == v6
		})
		errs = append(errs, d.setTunnelRule(family, on))
	}
	return errors.Join(errs...)
}

func (d *Datapath) setTunnelRule(family int, on bool) error {
	rules, err := d.nl.RuleListFiltered(family, &netlink.Rule{Table: tunnelTable}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	pods := d.opts.podRange(family == netlink.FAMILY_V6)
	found := false
	for _, r := range rules {
		if r.Priority != tunnelRulePriority || r.Table != tunnelTable {
			continue
		}
		if on && !found && r.Src != nil && r.Src.String() == pods.String() {
			found = true
			continue
		}
		r.Family = family
		if err := d.nl.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove routing rule: %w", err)
		}
	}
	if on && !found {
		if err := d.nl.RuleAdd(tunnelRule(pods)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add routing rule for pods (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES): %w", err)
		}
	}
	return nil
}

// removeHosts takes away all that SetHosts made.
func (d *Datapath) removeHosts() error {
	return errors.Join(d.setHostRoutes(nil, nil, 0), d.setTunnelRules(nil), d.removeTunnel())
}
