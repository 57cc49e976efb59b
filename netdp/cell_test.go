package netdp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// cell is four hosts, each a network namespace with a datapath of its own:
// h1 to h3 and a machine outside on one bridge, h4 behind a router that knows
// nothing of pods.
type cell struct {
	*lab    // opts are not used; host and outside are the router and the machine
	dir     string
	router  namespace
	hosts   []*cellHost
	process string // the cgroup this process belongs to between calls
	dual    bool   // hosts and pods have IPv6 beside IPv4
}

type cellHost struct {
	*lab
	name string
	ip   netip.Addr
	ip6  netip.Addr // not valid: it has none
	dp   *Datapath
}

const (
	cellLink    = "eth0"
	cellOutside = "198.18.0.100"

	cellOutside6 = "2001:db8:18::100"
)

func newCell(t testing.TB, names ...string) *cell {
	t.Helper()
	return makeCell(t, false, names)
}

func makeCell(t testing.TB, dual bool, names []string) *cell {
	t.Helper()
	dir := t.TempDir()
	root := joinTestCgroup(t)
	l := &lab{t: t, opts: Options{CgroupRoot: root}}
	c := &cell{lab: l, dir: dir, process: root, dual: dual}
	c.router = l.makeNamespace(filepath.Join(dir, "router"))
	l.host = c.router
	l.outside = l.makeNamespace(filepath.Join(dir, "outside"))
	l.must(c.router.do(func() error {
		for _, name := range []string{"near", "far"} {
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
				return err
			}
		}
		return writeSysctl("1", "net/ipv4/ip_forward")
	}))
	c.raise(c.router, "near", "198.18.0.254/24")
	c.raise(c.router, "far", "198.18.1.254/24")
	c.plug(l.outside, "outside", "near", cellOutside+"/24", "198.18.0.254")
	if dual {
		c.must(c.router.do(func() error { return writeSysctl("1", "net/ipv6/conf/all/forwarding") }))
		c.raise(c.router, "near", "2001:db8:18::fe/64")
		c.raise(c.router, "far", "2001:db8:18:1::fe/64")
		c.plugIPv6(l.outside, cellOutside6+"/64", "2001:db8:18::fe")
	}
	for i, name := range names {
		c.addHost(i+1, name)
	}
	return c
}

// raise gives an interface its address and sets it up.
func (l *lab) raise(ns namespace, device, addr string) {
	l.t.Helper()
	l.must(ns.do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	}))
}

// plug connects a namespace to a bridge of the router's.
func (c *cell) plug(ns namespace, name, bridge, addr, gateway string) {
	c.t.Helper()
	c.must(c.router.do(func() error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "to-" + name, MasterIndex: br.Attrs().Index},
			PeerName: cellLink, PeerNamespace: netlink.NsFd(ns.file.Fd())}
		if err := netlink.LinkAdd(port); err != nil {
			return err
		}
		return netlink.LinkSetUp(port)
	}))
	c.raise(ns, cellLink, addr)
	c.must(ns.do(func() error {
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)})
	}))
}

func (c *cell) plugIPv6(ns namespace, addr, gateway string) {
	c.t.Helper()
	c.raise(ns, cellLink, addr)
	c.must(ns.do(func() error {
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)})
	}))
}

// addHost puts hosts whose name begins with "far" behind the router.
func (c *cell) addHost(number int, name string) {
	c.t.Helper()
	subnet, bridge := 0, "near"
	if name[:3] == "far" {
		subnet, bridge = 1, "far"
	}
	dir := filepath.Join(c.dir, name)
	h := &cellHost{name: name, ip: netip.AddrFrom4([4]byte{198, 18, byte(subnet), byte(number)}),
		lab: &lab{t: c.t, outside: c.outside}}
	h.host = c.makeNamespace(dir + "-ns")
	c.plug(h.host, name, bridge, h.ip.String()+"/24", fmt.Sprintf("198.18.%d.254", subnet))
	// The strictest setting a host could have: nothing may depend on laxer ones.
	c.must(h.host.do(func() error { return writeSysctl("1", "net/ipv4/conf/all/rp_filter") }))
	h.opts = Options{
		StateDir: dir + "-state", BPFFSDir: dir + "-bpf", CgroupRoot: c.cgroup(name), NodeName: name,
		NodeIPs: []netip.Addr{h.ip}, PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64, byte(number), 0}), 24),
		ServiceCIDR: netip.MustParsePrefix("10.0.0.0/16"),
		NetNS:       dir + "-ns", Logger: newTestLogger(c.t).With("host", name),
	}
	if c.dual {
		prefix := map[int]string{0: "2001:db8:18::", 1: "2001:db8:18:1::"}[subnet]
		h.ip6 = netip.MustParseAddr(fmt.Sprintf("%s%d", prefix, number))
		c.plugIPv6(h.host, h.ip6.String()+"/64", prefix+"fe")
		h.opts.NodeIPs = append(h.opts.NodeIPs, h.ip6)
		h.opts.PodCIDR6 = netip.MustParsePrefix(fmt.Sprintf("fd00:64:%d::/64", number))
		h.opts.ServiceCIDR6 = netip.MustParsePrefix("fd00:10::/112")
	}
	c.t.Cleanup(func() { _ = unix.Unmount(h.opts.BPFFSDir, unix.MNT_DETACH) })
	h.dp = h.open()
	c.t.Cleanup(func() {
		if err := h.dp.Remove(); err != nil {
			c.t.Error(err)
		}
	})
	c.hosts = append(c.hosts, h)
}

// cgroup makes one below the test's: each host's sockets are in its own.
func (c *cell) cgroup(name string) string {
	c.t.Helper()
	dir := filepath.Join(c.process, name)
	c.must(unix.Mkdir(dir, 0o755))
	c.t.Cleanup(func() {
		if err := unix.Rmdir(dir); err != nil {
			c.t.Error(err)
		}
	})
	return dir
}

// in runs f with this process among the host's, so that the host's programs see
// the sockets that f makes.
func (c *cell) in(h *cellHost, f func()) {
	c.t.Helper()
	c.must(enterCgroup(h.opts.CgroupRoot))
	defer func() { c.must(enterCgroup(c.process)) }()
	f()
}

// meet tells every host of all others.
func (c *cell) meet() {
	c.t.Helper()
	for _, h := range c.hosts {
		c.must(h.dp.SetHosts(c.others(h)))
	}
}

func (c *cell) others(h *cellHost) []Host {
	var out []Host
	for _, o := range c.hosts {
		if o != h {
			out = append(out, o.asHost())
		}
	}
	return out
}

func (h *cellHost) asHost() Host {
	return Host{Name: h.name, Addresses: h.opts.NodeIPs, PodCIDR: h.opts.PodCIDR, PodCIDR6: h.opts.PodCIDR6,
		WireGuardKey: h.dp.Encryption()}
}

// set gives every host the same service, as their controllers would.
func (c *cell) set(s Service) {
	c.t.Helper()
	for _, h := range c.hosts {
		c.must(h.dp.SetService(s))
	}
}

// cellPod is a pod that answers TCP and UDP on port 80 with its name.
type cellPod struct {
	host *cellHost
	ns   namespace
	ip   netip.Addr
}

func (c *cell) server(h *cellHost) cellPod {
	c.t.Helper()
	ns, ip := h.pod(h.dp, h.name+"-pod")
	c.serveTCP(ns, ":80", h.name)
	c.serveUDP(ns, ":80", h.name)
	return cellPod{h, ns, ip}
}

func (c *cell) servers() []cellPod {
	out := make([]cellPod, 0, len(c.hosts))
	for _, h := range c.hosts {
		out = append(out, c.server(h))
	}
	return out
}

// askFrom calls from a namespace of a host's; nil is the machine outside.
func (c *cell) askFrom(h *cellHost, ns namespace, network, addr string) (answer string, err error) {
	c.t.Helper()
	ask := func() {
		var conn net.Conn
		if conn, err = dial(ns, network, addr); err != nil {
			return
		}
		defer conn.Close()
		answer, err = call(conn, "hello")
	}
	if h == nil {
		ask()
	} else {
		c.in(h, ask)
	}
	return answer, err
}

func (c *cell) path(h *cellHost, to string) HostRoute {
	for _, r := range h.dp.Hosts() {
		if r.Host == to {
			return r
		}
	}
	return HostRoute{}
}

func (h *cellHost) restart() {
	h.t.Helper()
	h.must(h.dp.Close())
	d, err := Open(context.Background(), h.opts)
	h.must(err)
	h.dp = d
}
