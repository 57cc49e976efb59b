package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// network lists links, routes of all tables but local, and routing rules.
func (c *cell) network(h *cellHost) []string {
	c.t.Helper()
	var out []string
	c.must(h.host.do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			out = append(out, fmt.Sprintf("link %s mtu %d", l.Attrs().Name, l.Attrs().MTU))
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Table != unix.RT_TABLE_LOCAL {
				out = append(out, fmt.Sprintf("route %v via %v table %d proto %d type %d", r.Dst, r.Gw, r.Table, r.Protocol, r.Type))
			}
		}
		rules, err := netlink.RuleList(netlink.FAMILY_V4)
		for _, r := range rules {
			out = append(out, r.String())
		}
		filter, readErr := os.ReadFile("/proc/sys/net/ipv4/conf/" + cellLink + "/forwarding")
		out = append(out, "forwarding "+string(filter))
		return errors.Join(err, readErr)
	}))
	slices.Sort(out)
	return out
}

// raiseSecond gives a host a foot on the near link.
func (c *cell) raiseSecond(h *cellHost, addr netip.Addr) {
	c.t.Helper()
	c.must(c.router.do(func() error {
		br, err := netlink.LinkByName("near")
		if err != nil {
			return err
		}
		port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "second", MasterIndex: br.Attrs().Index},
			PeerName: "eth1", PeerNamespace: netlink.NsFd(h.host.file.Fd())}
		if err := netlink.LinkAdd(port); err != nil {
			return err
		}
		return netlink.LinkSetUp(port)
	}))
	c.raise(h.host, "eth1", addr.String()+"/32") // no route by it: only reached
}

func unreachableRoute(dst string) error {
	return netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(dst)), Type: unix.RTN_UNREACHABLE})
}

func setMTU(device string, mtu int) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(link, mtu)
}

// podMTUs reads a pod's interface and default route from inside.
func podMTUs() (link, route int, err error) {
	eth, err := netlink.LinkByName(podLinkName)
	if err != nil {
		return 0, 0, err
	}
	routes, err := netlink.RouteList(eth, netlink.FAMILY_V4)
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			route = r.MTU
		}
	}
	return eth.Attrs().MTU, route, err
}

// widen gives the lab's uplink a larger network, and a gateway to another one.
func widen(addr, far, gateway string) error {
	link, err := netlink.LinkByName(labUplink)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(far)), Gw: netip.MustParseAddr(gateway).AsSlice()})
}
