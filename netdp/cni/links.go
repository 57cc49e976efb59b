package cni

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is an interface of the host, and the address that it is named for.
type Link struct {
	Name    string
	Address netip.Addr
}

// LinksWithin are the host's interfaces with an address of pods, but for those that
// are hardware: on a host without plugins' pods, what plugins keep for all pods and
// leave behind, as bridge its bridge. The kernel sends there what is for a pod of that
// range that it has no route to.
func (o Options) LinksWithin(ranges ...netip.Prefix) (out []Link, err error) {
	err = inHost(o.NetNS, func() error {
		out, err = linksWithin(ranges)
		return err
	})
	return out, err
}

func linksWithin(ranges []netip.Prefix) ([]Link, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		return nil, err
	}
	var out []Link
	for _, link := range links {
		if link.Type() == "device" { // loopback too, where shoal's addresses of that range are
			continue
		}
		addrs, err := nl.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			addr, _ := netip.AddrFromSlice(a.IP)
			addr = addr.Unmap()
			if slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(addr) }) {
				out = append(out, Link{link.Attrs().Name, addr})
				break
			}
		}
	}
	return out, nil
}
