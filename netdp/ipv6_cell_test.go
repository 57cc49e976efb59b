package netdp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func newDualCell(t testing.TB, names ...string) *cell {
	t.Helper()
	return makeCell(t, true, names)
}

// servers6 are pods that answer by both families; ip is the IPv6 address.
func (c *cell) servers6() []cellPod {
	var out []cellPod
	for _, h := range c.hosts {
		p := c.server(h)
		c.serveTCP(p.ns, "[::]:80", h.name)
		c.serveUDP(p.ns, "[::]:80", h.name)
		p.ip = h.dp.pods.byUID[h.name+"-pod"].record.Address6
		out = append(out, p)
	}
	return out
}

func at6(ip netip.Addr, port uint16) string { return netip.AddrPortFrom(ip, port).String() }

// Pods and hosts reach each other by IPv6 on one link and through the tunnel,
// and IPv4 goes on beside it.
func TestDualStackPodsReachEachOther(t *testing.T) {
	c := newDualCell(t, "near1", "near2", "far3", "far4")
	c.meet()
	pods := c.servers6()
	ways := map[string]Path{}
	for _, r := range c.hosts[0].dp.Hosts() {
		ways[fmt.Sprint(r.Host, " ", r.PodCIDR.Addr().Is6())] = r.Path
	}
	if want := (map[string]Path{
		"near2 false": PathDirect, "near2 true": PathDirect, "far3 false": PathVXLAN, "far3 true": PathVXLAN,
		"far4 false": PathVXLAN, "far4 true": PathVXLAN,
	}); fmt.Sprint(ways) != fmt.Sprint(want) {
		t.Errorf("ways are %v, want %v", ways, want)
	}
	for _, h := range c.hosts {
		c.serveTCP(h.host, "[::]:6443", h.name)
	}
	for _, from := range pods {
		for _, to := range pods {
			for _, network := range []string{"tcp6", "udp6"} {
				for what, ns := range map[string]namespace{from.ip.String(): from.ns, from.host.ip6.String(): from.host.host} {
					got, err := c.askFrom(from.host, ns, network, at6(to.ip, 80))
					if want := to.host.name + " " + what + " hello"; err != nil || got != want {
						t.Errorf("%s from %s on %s to the pod of %s: %q, %v; want %q", network, what, from.host.name, to.host.name, got, err, want)
					}
				}
			}
			four := to.host.dp.pods.byUID[to.host.name+"-pod"].record.Address
			if _, err := c.askFrom(from.host, from.ns, "tcp4", at6(four, 80)); err != nil {
				t.Errorf("by IPv4 from %s to the pod of %s: %v", from.host.name, to.host.name, err)
			}
			got, err := c.askFrom(from.host, from.ns, "tcp6", at6(to.host.ip6, 6443))
			if want := to.host.name + " " + from.ip.String() + " hello"; err != nil || got != want {
				t.Errorf("from the pod of %s to host %s: %q, %v; want %q", from.host.name, to.host.name, got, err, want)
			}
		}
	}
}

// A service with an address of each family is called by all, whoever they are
// and wherever its pods are.
func TestDualStackServices(t *testing.T) {
	c := newDualCell(t, "near1", "near2", "far3")
	c.meet()
	pods := c.servers6()
	for _, proto := range []Proto{TCP, UDP} {
		four := Service{Key: "four/" + proto.String(), Proto: proto,
			Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}}}
		six := Service{Key: "six/" + proto.String(), Proto: proto,
			Frontends: []Frontend{{Addr: netip.MustParseAddr("fd00:10::10"), Port: 80}, {Addr: NodePortIPv6, Port: 30080}}}
		for _, p := range pods {
			rec := p.host.dp.pods.byUID[p.host.name+"-pod"].record
			four.Backends = append(four.Backends, Backend{Addr: netip.AddrPortFrom(rec.Address, 80)})
			six.Backends = append(six.Backends, Backend{Addr: netip.AddrPortFrom(rec.Address6, 80)})
		}
		c.set(four)
		c.set(six)
	}
	type caller struct {
		name string
		host *cellHost
		ns   namespace
		to   string
	}
	var callers []caller
	for _, p := range pods {
		callers = append(callers,
			caller{"pod of " + p.host.name + " to the cluster IP", p.host, p.ns, "[fd00:10::10]:80"},
			caller{"host " + p.host.name + " to the cluster IP", p.host, p.host.host, "[fd00:10::10]:80"},
			caller{"pod of " + p.host.name + " to IPv4's cluster IP", p.host, p.ns, "10.0.0.10:80"})
		for _, o := range c.hosts {
			callers = append(callers,
				caller{"pod of " + p.host.name + " to the node port of " + o.name, p.host, p.ns, at6(o.ip6, 30080)},
				caller{"host " + p.host.name + " to the node port of " + o.name, p.host, p.host.host, at6(o.ip6, 30080)})
		}
		callers = append(callers,
			caller{"outside to the node port of " + p.host.name, nil, c.outside, at6(p.host.ip6, 30080)},
			caller{"outside to IPv4's node port of " + p.host.name, nil, c.outside, at6(p.host.ip, 30080)})
	}
	for _, call := range callers {
		for _, proto := range []string{"tcp", "udp"} {
			answered := map[string]int{}
			for range 60 { // one of three is missed 60 times once in 10^10 runs
				got, err := c.askFrom(call.host, call.ns, proto+familyName(call.to), call.to)
				if err != nil {
					t.Errorf("%s %s: after %v: %v", proto, call.name, answered, err)
					break
				}
				name, _, _ := strings.Cut(got, " ")
				if answered[name]++; len(answered) == len(pods) {
					break
				}
			}
			if len(answered) != len(pods) {
				t.Errorf("%s %s: answers came from %v only", proto, call.name, answered)
			}
		}
	}
}

// Hosts without IPv6 on their link carry that of pods through the tunnel, and
// IPv4 goes on beside it, as large as before.
func TestIPv6OverHostsOfIPv4(t *testing.T) {
	c := newDualCell(t, "near1", "near2")
	for _, h := range c.hosts {
		h.opts.NodeIPs = h.opts.NodeIPs[:1]
		h.restart()
	}
	pods := c.servers6()
	c.meet()
	for _, from := range pods {
		for _, to := range pods {
			for network, addr := range map[string]netip.Addr{"tcp6": to.ip, "tcp4": to.host.dp.pods.byUID[to.host.name+"-pod"].record.Address} {
				if _, err := c.askFrom(from.host, from.ns, network, at6(addr, 80)); err != nil {
					t.Errorf("%s from %s to %s: %v", network, from.host.name, to.host.name, err)
				}
			}
		}
		c.must(from.ns.do(func() error {
			link, route, err := podMTUs()
			if link != fallbackMTU || route != 0 {
				t.Errorf("IPv4 has MTU %d, its route %d", link, route)
			}
			return err
		}))
	}
}

// What is larger than the path arrives all the same: the sender is told
// (RFC 8201), since no router cuts a packet of IPv6.
func TestLargePacketsIPv6(t *testing.T) {
	c := newDualCell(t, "near1", "near2", "far3")
	early, _ := c.hosts[0].pod(c.hosts[0].dp, "early")
	c.meet()
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	send := func(from namespace, to string) {
		t.Helper()
		conn, err := dial(from, "tcp6", to)
		if err != nil {
			t.Errorf("TCP to %s: %v", to, err)
			return
		}
		defer conn.Close()
		c.must(conn.SetDeadline(deadline()))
		_, err = conn.Write(payload)
		c.must(err)
		c.must(conn.(*net.TCPConn).CloseWrite())
		if answer, err := io.ReadAll(conn); err != nil || !bytes.Equal(answer, payload) {
			t.Errorf("TCP to %s: %d bytes came back, %v", to, len(answer), err)
		}
	}
	for _, h := range c.hosts[1:] {
		ns, _ := h.pod(h.dp, "sink")
		ip := h.dp.pods.byUID["sink"].record.Address6
		c.countTCP(ns, "[::]:80")
		c.serveBigUDP(ns, "[::]:81")
		send(early, at6(ip, 80))
		for _, size := range []int{1380, 1440, 1452, 9000, 60000} {
			conn, err := dial(early, "udp6", at6(ip, 81))
			c.must(err)
			c.must(conn.SetDeadline(deadline()))
			_, err = conn.Write(payload[:size])
			c.must(err)
			buf := make([]byte, 1<<16)
			if n, err := conn.Read(buf); err != nil || n != size {
				t.Errorf("UDP of %d to %s: %d bytes came back, %v", size, h.name, n, err)
			}
			_ = conn.Close()
		}
		c.must(c.hosts[0].dp.SetService(Service{Key: "big", Proto: TCP, Frontends: []Frontend{{Addr: NodePortIPv6, Port: 30080}},
			Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 80)}}}))
		send(c.outside, at6(c.hosts[0].ip6, 30080))
	}
}

// Real sockets: the world outside has no way to pods, and hears the host; a path
// that carries less than the pod's link is learnt of.
func TestPodCallsTheWorldIPv6(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	l.must(d.SetHosts(nil))
	pod, ip := l.pod6(d, "caller")
	l.serveTCP(l.outside, "[::]:80", "world")
	l.serveUDP(l.outside, "[::]:53", "world")
	for network, port := range map[string]string{"tcp6": "80", "udp6": "53"} {
		if got, want := l.ask(pod, network, "["+labOutsideIP6+"]:"+port), "world "+labHostIP6+" hello"; got != want {
			t.Errorf("%s: got %q, want %q", network, got, want)
		}
	}
	large := strings.Repeat("0123456789", 100)[:980]
	c, err := dial(pod, "udp6", "["+labOutsideIP6+"]:53")
	l.must(err)
	defer c.Close()
	if got, err := call(c, large); err != nil || got != "world "+labHostIP6+" "+large {
		t.Errorf("a large datagram: %d bytes, %v", len(got), err)
	}
	l.serveTCP(pod, "[::]:8080", "pod")
	if got, want := l.ask(l.outside, "tcp6", at6(ip, 8080)), "pod "+labOutsideIP6+" hello"; got != want {
		t.Errorf("called by its own address: got %q, want %q", got, want)
	}
}

// Connections and ways outlive the daemon, and Remove leaves nothing of IPv6.
func TestDualStackRestartAndRemove(t *testing.T) {
	c := newDualCell(t, "near1", "far2")
	first := c.hosts[0]
	c.meet()
	pods := c.servers6()
	var conn net.Conn
	c.in(first, func() {
		var err error
		conn, err = dial(pods[0].ns, "tcp6", at6(pods[1].ip, 80))
		c.must(err)
	})
	defer conn.Close()
	first.restart()
	if _, err := call(conn, "old"); err != nil {
		t.Errorf("an open connection after a restart: %v", err)
	}
	ns, addrs, err := first.dp.Attach(t.Context(), "near1-pod", "default", "near1-pod")
	c.must(err)
	if ns == "" || !slices.Contains(addrs, pods[0].ip) {
		t.Errorf("the pod has %v after a restart, and had %s", addrs, pods[0].ip)
	}
	c.must(first.dp.SetHosts(c.others(first)))
	if _, err := call(conn, "old"); err != nil {
		t.Errorf("after the hosts were set: %v", err)
	}
	c.must(first.dp.Remove())
	c.must(first.host.do(func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			if r.Dst != nil && strings.HasPrefix(r.Dst.String(), "fd00:") {
				t.Errorf("route left: %v", r)
			}
		}
		forwarding, readErr := os.ReadFile("/proc/sys/net/ipv6/conf/all/forwarding")
		if string(forwarding) != "0\n" {
			t.Errorf("forwarding is %q", forwarding)
		}
		return errors.Join(err, readErr)
	}))
	first.dp = first.open()
}

// A host without IPv6 says so and gives its pods IPv4.
func TestIPv6SwitchedOff(t *testing.T) {
	l := newLab(t)
	l.opts.PodCIDR6 = netip.MustParsePrefix(labPods6)
	var log bytes.Buffer
	l.opts.Logger = newBufferLogger(&log)
	l.must(l.host.do(func() error { return writeSysctl("1", "net/ipv6/conf/all/disable_ipv6") }))
	d := l.openUntilEnd()
	path, addrs, err := d.Attach(t.Context(), "one", "default", "one")
	l.must(err)
	if path == "" || len(addrs) != 1 || !addrs[0].Is4() {
		t.Errorf("the pod has %v", addrs)
	}
	if got := d.PodCIDRs(); len(got) != 1 || got[0] != l.opts.PodCIDR {
		t.Errorf("ranges are %v", got)
	}
	if !strings.Contains(log.String(), "disable_ipv6") {
		t.Errorf("the log does not say why:\n%s", &log)
	}
}

// A host that gets its routes from routers keeps getting them.
func TestForwardingKeepsRouters(t *testing.T) {
	l := dualLab(t)
	read := func(name string) (value string) {
		l.must(l.host.do(func() error {
			data, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name)
			value = strings.TrimSpace(string(data))
			return err
		}))
		return value
	}
	before := read(labUplink + "/accept_ra")
	d := l.open()
	if got := read("all/forwarding") + read(labUplink+"/accept_ra"); got != "12" {
		t.Errorf("forwarding and accept_ra are %s, want 12", got)
	}
	l.must(d.Remove())
	if got, want := read("all/forwarding")+read(labUplink+"/accept_ra"), "0"+before; got != want {
		t.Errorf("after Remove forwarding and accept_ra are %s, want %s", got, want)
	}
}
