package netdp

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// reach asks the kernel's routes for the way to an address, policy routing
// included. It keeps what it learns of interfaces, so use one for one round.
type reach struct {
	nl    *netlink.Handle
	links map[int]netlink.Link
}

func (d *Datapath) newReach() *reach {
	return &reach{nl: d.nl, links: map[int]netlink.Link{}}
}

func (r *reach) find(addr netip.Addr) (reached, string) {
	routes, err := r.nl.RouteGet(addr.AsSlice())
	if err != nil || len(routes) == 0 {
		return reached{}, fmt.Sprintf("this host has no route to %s; see `ip route get %s`", addr, addr)
	}
	route := routes[0]
	if route.Type == unix.RTN_LOCAL {
		return reached{}, fmt.Sprintf("its address %s is one of this host's own; give each its own", addr)
	}
	link, err := r.link(route.LinkIndex)
	if err != nil {
		return reached{}, fmt.Sprintf("the interface to %s is gone", addr)
	}
	way := reached{device: link.Attrs().Name, mtu: link.Attrs().MTU}
	if route.MTU > 0 {
		way.mtu = min(way.mtu, route.MTU)
	}
	way.direct = route.Gw == nil && route.Via == nil && isShared(link)
	return way, ""
}

func (r *reach) link(index int) (netlink.Link, error) {
	if l, ok := r.links[index]; ok {
		return l, nil
	}
	l, err := r.nl.LinkByIndex(index)
	if err == nil {
		r.links[index] = l
	}
	return l, err
}

// isShared tells whether hosts on this interface find each other by ARP. A
// tunnel to a neighbour (WireGuard, GRE, PPP) looks connected too, but takes no
// packets for addresses that it was not told of.
func isShared(link netlink.Link) bool {
	a := link.Attrs()
	return a.Flags&net.FlagBroadcast != 0 && a.Flags&net.FlagPointToPoint == 0 &&
		a.RawFlags&unix.IFF_NOARP == 0 && a.Name != tunnelDevice && !strings.HasPrefix(a.Name, hostLinkPrefix)
}
