package netdp

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newPlainLab is a lab whose host has no datapath of ours: its kernel forwards.
func newPlainLab(t testing.TB) *lab {
	t.Helper()
	dir := t.TempDir()
	l := &lab{t: t}
	l.host = l.makeNamespace(filepath.Join(dir, "host"))
	l.outside = l.makeNamespace(filepath.Join(dir, "outside"))
	l.connect()
	l.must(l.host.do(func() error { return writeSysctl("1", "net/ipv4/ip_forward") }))
	return l
}

const (
	plainGateway = "169.254.1.1"
	plainVXLAN   = "plain"
)

// plainPod is a pod as network drivers without eBPF make them: a veth pair, and
// a route by it on the host.
func (l *lab) plainPod(host namespace, addr netip.Addr, mtu int) namespace {
	l.t.Helper()
	ns := l.makeNamespace(filepath.Join(l.t.TempDir(), "pod"))
	outer := fmt.Sprint("pod", addr.As4()[3])
	l.must(host.do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: outer},
			PeerName: podLinkName, PeerNamespace: netlink.NsFd(ns.file.Fd())})
	}))
	l.raise(host, outer, plainGateway+"/32")
	l.raise(ns, podLinkName, addr.String()+"/32")
	l.plainRoute(host, outer, netlink.Route{Dst: hostNet(addr), Scope: unix.RT_SCOPE_LINK})
	l.plainRoute(ns, podLinkName, netlink.Route{Dst: hostNet(netip.MustParseAddr(plainGateway)), Scope: unix.RT_SCOPE_LINK})
	l.plainRoute(ns, podLinkName, netlink.Route{Gw: net.ParseIP(plainGateway), MTU: mtu})
	return ns
}

func (l *lab) plainRoute(ns namespace, device string, route netlink.Route) {
	l.t.Helper()
	l.must(ns.do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		route.LinkIndex = link.Attrs().Index
		return netlink.RouteAdd(&route)
	}))
}

// plainHost is a machine on a bridge of the cell's router, without a datapath of
// ours, that has one pod.
type plainHost struct {
	ns, pod             namespace
	ip, tunnelIP, podIP netip.Addr
}

func (c *cell) plainHost(number int, bridge string, subnet byte) plainHost {
	c.t.Helper()
	n := byte(number)
	h := plainHost{
		ns:       c.makeNamespace(filepath.Join(c.t.TempDir(), "plain")),
		ip:       netip.AddrFrom4([4]byte{198, 18, subnet, 200 + n}),
		tunnelIP: netip.AddrFrom4([4]byte{198, 18, 9, n}),
		podIP:    netip.AddrFrom4([4]byte{10, 65, n, 2}),
	}
	c.plug(h.ns, fmt.Sprint("plain", number), bridge, h.ip.String()+"/24", fmt.Sprintf("198.18.%d.254", subnet))
	c.must(h.ns.do(func() error {
		if err := writeSysctl("1", "net/ipv4/conf/all/rp_filter"); err != nil { // as on the cell's
			return err
		}
		return writeSysctl("1", "net/ipv4/ip_forward")
	}))
	h.pod = c.plainPod(h.ns, h.podIP, fallbackMTU-vxlanOverhead)
	return h
}

// connectPlain gives two plain hosts a VXLAN device of the kernel's, with a fixed
// remote end, and routes to each other's pod: by it, or by the link they share.
func (c *cell) connectPlain(one, two plainHost, tunnel bool) {
	c.t.Helper()
	for _, ends := range [][2]plainHost{{one, two}, {two, one}} {
		here, there := ends[0], ends[1]
		if !tunnel {
			c.plainRoute(here.ns, cellLink, netlink.Route{Dst: hostNet(there.podIP), Gw: there.ip.AsSlice()})
			continue
		}
		c.must(here.ns.do(func() error {
			return netlink.LinkAdd(&netlink.Vxlan{
				LinkAttrs: netlink.LinkAttrs{Name: plainVXLAN, MTU: fallbackMTU - vxlanOverhead},
				VxlanId:   99, Port: 4790, SrcAddr: here.ip.AsSlice(), Group: there.ip.AsSlice(), Learning: true,
			})
		}))
		c.raise(here.ns, plainVXLAN, here.tunnelIP.String()+"/24")
		c.plainRoute(here.ns, plainVXLAN, netlink.Route{Dst: hostNet(there.podIP), Gw: there.tunnelIP.AsSlice()})
	}
}
