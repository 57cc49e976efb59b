package netdp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestPodsReachPodsOfOtherHosts(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3", "far4")
	c.meet()
	pods := c.servers()
	want := map[string]Path{
		"near1 near2": PathDirect, "far3 far4": PathDirect,
		"near1 far3": PathVXLAN, "near1 far4": PathVXLAN, "near2 far3": PathVXLAN, "near2 far4": PathVXLAN,
	}
	for pair, path := range want {
		from, to, _ := strings.Cut(pair, " ")
		for _, way := range [][2]string{{from, to}, {to, from}} {
			for _, h := range c.hosts {
				if h.name == way[0] && c.path(h, way[1]).Path != path {
					t.Errorf("%s reaches %s by %+v, want %s", way[0], way[1], c.path(h, way[1]), path)
				}
			}
		}
	}
	for _, from := range pods {
		for _, to := range pods {
			for _, network := range []string{"tcp4", "udp4"} {
				for what, ns := range map[string]namespace{from.ip.String(): from.ns, from.host.ip.String(): from.host.host} {
					got, err := c.askFrom(from.host, ns, network, to.ip.String()+":80")
					if want := to.host.name + " " + what + " hello"; err != nil || got != want {
						t.Errorf("%s from %s on %s to the pod of %s: %q, %v; want %q", network, what, from.host.name, to.host.name, got, err, want)
					}
				}
			}
		}
	}
	// The API server of another peer, say, which listens on the host itself.
	for _, h := range c.hosts {
		c.serveTCP(h.host, ":6443", h.name)
	}
	for _, from := range pods {
		for _, h := range c.hosts {
			got, err := c.askFrom(from.host, from.ns, "tcp4", h.ip.String()+":6443")
			if want := h.name + " " + from.ip.String() + " hello"; err != nil || got != want {
				t.Errorf("from the pod of %s to host %s: %q, %v; want %q", from.host.name, h.name, got, err, want)
			}
		}
	}
}

// Large transfers and large datagrams arrive on both kinds of path, whatever
// the pods had been made with.
func TestLargePacketsFit(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	early, _ := c.hosts[0].pod(c.hosts[0].dp, "early")
	c.meet()
	if r := c.path(c.hosts[0], "far3"); r.MTU != fallbackMTU-vxlanOverhead || r.Device != tunnelDevice {
		t.Errorf("the way to far3 is %+v", r)
	}
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for _, h := range c.hosts[1:] {
		ns, ip := h.pod(h.dp, "sink")
		c.countTCP(ns, ":80")
		c.serveBigUDP(ns, ":81")
		t.Run("TCP to "+h.name, func(t *testing.T) {
			conn, err := dial(early, "tcp4", ip.String()+":80")
			c.must(err)
			defer conn.Close()
			c.must(conn.SetDeadline(deadline()))
			_, err = conn.Write(payload)
			c.must(err)
			c.must(conn.(*net.TCPConn).CloseWrite())
			answer, err := io.ReadAll(conn)
			if err != nil || len(answer) != len(payload) {
				t.Errorf("%d bytes came back, %v", len(answer), err)
			}
		})
		for _, size := range []int{1400, 1460, 1472, 9000, 60000} {
			t.Run(fmt.Sprintf("UDP of %d to %s", size, h.name), func(t *testing.T) {
				conn, err := dial(early, "udp4", ip.String()+":81")
				c.must(err)
				defer conn.Close()
				c.must(conn.SetDeadline(deadline()))
				_, err = conn.Write(payload[:size])
				c.must(err)
				buf := make([]byte, 1<<16)
				n, err := conn.Read(buf)
				if err != nil || n != size {
					t.Errorf("%d bytes came back, %v", n, err)
				}
			})
		}
	}
}

// Large datagrams and transfers also arrive by a node port whose backend is
// behind the tunnel: the caller outside knows nothing of its overhead.
func TestLargePacketsByNodePort(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.meet()
	for _, h := range c.hosts[1:] {
		ns, ip := h.pod(h.dp, "sink")
		c.countTCP(ns, ":80")
		c.measureUDP(ns, ":80")
		for _, proto := range []Proto{TCP, UDP} {
			c.must(c.hosts[0].dp.SetService(Service{Key: proto.String(), Proto: proto, Frontends: []Frontend{{Port: 30080}},
				Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 80)}}}))
		}
		to := c.hosts[0].ip.String() + ":30080"
		payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		conn, err := dial(c.outside, "tcp4", to)
		c.must(err)
		c.must(conn.SetDeadline(deadline()))
		_, err = conn.Write(payload)
		c.must(err)
		c.must(conn.(*net.TCPConn).CloseWrite())
		answer, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(answer, payload) {
			t.Errorf("%s: %d bytes came back by TCP, %v", h.name, len(answer), err)
		}
		_ = conn.Close()
		udp, err := dial(c.outside, "udp4", to)
		c.must(err)
		c.must(udp.SetDeadline(deadline()))
		_, err = udp.Write(payload[:1472])
		c.must(err)
		buf := make([]byte, 100)
		n, err := udp.Read(buf)
		if err != nil || string(buf[:n]) != "1472" {
			t.Errorf("%s: the datagram came as %q, %v", h.name, buf[:n], err)
		}
		_ = udp.Close()
	}
}

// countTCP sends back what it got, once it has all.
func (c *cell) countTCP(ns namespace, addr string) {
	c.t.Helper()
	var ln net.Listener
	c.must(ns.do(func() (err error) {
		ln, err = net.Listen("tcp"+familyName(addr), addr)
		return err
	}))
	c.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if all, err := io.ReadAll(conn); err == nil {
					_, _ = conn.Write(all)
				}
			}()
		}
	}()
}

// measureUDP answers with the length of what came.
func (c *cell) measureUDP(ns namespace, addr string) {
	c.t.Helper()
	c.answerUDP(ns, addr, func(datagram []byte) []byte { return []byte(strconv.Itoa(len(datagram))) })
}

func (c *cell) serveBigUDP(ns namespace, addr string) {
	c.t.Helper()
	c.answerUDP(ns, addr, func(datagram []byte) []byte { return datagram })
}

func (c *cell) answerUDP(ns namespace, addr string, answer func([]byte) []byte) {
	c.t.Helper()
	var pc net.PacketConn
	c.must(ns.do(func() (err error) {
		pc, err = net.ListenPacket("udp"+familyName(addr), addr)
		return err
	}))
	c.t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if _, err := pc.WriteTo(answer(buf[:n]), from); err != nil {
				return
			}
		}
	}()
}

func TestServiceBalancesOverAllHosts(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.meet()
	pods := c.servers()
	for _, proto := range []Proto{TCP, UDP} {
		s := Service{Key: "web/" + proto.String(), Proto: proto,
			Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}}}
		for _, p := range pods {
			s.Backends = append(s.Backends, Backend{Addr: netip.AddrPortFrom(p.ip, 80)})
		}
		c.set(s)
	}
	type caller struct {
		name string
		host *cellHost
		ns   namespace
		to   string
	}
	callers := []caller{}
	for _, p := range pods {
		for to, addr := range map[string]string{"the cluster IP": "10.0.0.10:80", "its node port": p.host.ip.String() + ":30080"} {
			callers = append(callers,
				caller{"pod of " + p.host.name + " to " + to, p.host, p.ns, addr},
				caller{"host " + p.host.name + " to " + to, p.host, p.host.host, addr})
		}
		for _, o := range c.hosts {
			if o == p.host {
				continue
			}
			to := o.ip.String() + ":30080"
			callers = append(callers,
				caller{"pod of " + p.host.name + " to the node port of " + o.name, p.host, p.ns, to},
				caller{"host " + p.host.name + " to the node port of " + o.name, p.host, p.host.host, to})
		}
		callers = append(callers, caller{"outside to the node port of " + p.host.name, nil, c.outside, p.host.ip.String() + ":30080"})
	}
	for _, call := range callers {
		for _, network := range []string{"tcp4", "udp4"} {
			t.Run(network+" "+call.name, func(t *testing.T) {
				answered := map[string]int{}
				// 1 of 3 is missed 60 times once in 10^10 runs.
				for range 60 {
					got, err := c.askFrom(call.host, call.ns, network, call.to)
					if err != nil {
						t.Fatalf("after %v: %v", answered, err)
					}
					name, _, _ := strings.Cut(got, " ")
					if answered[name]++; len(answered) == len(pods) {
						return
					}
				}
				t.Errorf("answers came from %v only", answered)
			})
		}
	}
}

// A backend that is the host itself on another machine, as an API server is.
func TestNodePortToAnotherHostItself(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.meet()
	for _, h := range c.hosts[1:] {
		c.serveTCP(h.host, ":6443", h.name)
		c.set(Service{Key: "api", Proto: TCP, Frontends: []Frontend{{Port: 30443}},
			Backends: []Backend{{Addr: netip.AddrPortFrom(h.ip, 6443)}}})
		got, err := c.askFrom(nil, c.outside, "tcp4", c.hosts[0].ip.String()+":30443")
		if want := h.name + " " + c.hosts[0].ip.String() + " hello"; err != nil || got != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
}

// Connections and routes outlive the daemon, also before the new one has seen
// the list of hosts; what is gone from that list goes then.
func TestRestartKeepsTheWays(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.meet()
	pods := c.servers()
	first := c.hosts[0]
	var all []Backend
	for _, p := range pods[1:] {
		all = append(all, Backend{Addr: netip.AddrPortFrom(p.ip, 80)})
	}
	service := Service{Key: "web", Proto: TCP, Frontends: []Frontend{{Port: 30080}}, Backends: all}
	c.set(service)
	c.must(first.dp.SyncComplete())
	var open []net.Conn
	for _, p := range pods[1:] {
		c.in(first, func() {
			conn, err := dial(pods[0].ns, "tcp4", p.ip.String()+":80")
			c.must(err)
			open = append(open, conn)
		})
	}
	for range 8 {
		conn, err := dial(c.outside, "tcp4", first.ip.String()+":30080")
		c.must(err)
		open = append(open, conn)
	}
	defer func() {
		for _, conn := range open {
			_ = conn.Close()
		}
	}()
	check := func(when string) {
		t.Helper()
		for i, conn := range open {
			if _, err := call(conn, "old"); err != nil {
				t.Errorf("%s: open connection %d: %v", when, i, err)
			}
		}
		for _, p := range pods[1:] {
			if _, err := c.askFrom(first, pods[0].ns, "tcp4", p.ip.String()+":80"); err != nil {
				t.Errorf("%s: new connection to the pod of %s: %v", when, p.host.name, err)
			}
			if _, err := c.askFrom(p.host, p.ns, "tcp4", pods[0].ip.String()+":80"); err != nil {
				t.Errorf("%s: new connection from the pod of %s: %v", when, p.host.name, err)
			}
		}
		for range 8 {
			if _, err := c.askFrom(nil, c.outside, "tcp4", first.ip.String()+":30080"); err != nil {
				t.Errorf("%s: from outside: %v", when, err)
			}
		}
	}
	check("before")
	c.must(first.dp.Close())
	check("without a daemon")
	first.dp = first.open()
	check("with a new daemon that knows nothing yet")
	if got := first.dp.Hosts(); len(got) != 0 {
		t.Errorf("a daemon that knows nothing tells of %v", got)
	}
	c.must(first.dp.SetService(service))
	c.must(first.dp.SyncComplete())
	check("with services")
	c.must(first.dp.SetHosts(c.others(first)))
	check("with hosts")
	first.restart()
	c.must(first.dp.SetHosts(c.others(first)[:1]))
	for _, conn := range open[:1] { // to the pod of near2
		if _, err := call(conn, "old"); err != nil {
			t.Errorf("after another host left: %v", err)
		}
	}
	if _, err := dial(pods[0].ns, "tcp4", pods[1].ip.String()+":80"); err != nil {
		t.Errorf("near2 after far3 left: %v", err)
	}
	have, err := first.dp.hostRoutes()
	c.must(err)
	if len(have) != 1 {
		t.Errorf("routes after far3 left: %v", have)
	}
}

func TestHostsLeaveNothing(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	first := c.hosts[0]
	before := c.network(first)
	rules := first.rules()
	c.meet()
	if first.rules() != rules {
		t.Errorf("netfilter rules before:\n%s\nand after:\n%s", rules, first.rules())
	}
	for range 2 {
		c.must(first.dp.SetHosts(c.others(first)))
	}
	if got := c.network(first); slices.Equal(got, before) {
		t.Fatal("setting hosts changed nothing that this test sees")
	}
	c.must(first.dp.SetHosts(nil))
	if got := c.network(first); !slices.Equal(got, before) {
		t.Errorf("with no host:\n%s\nbefore:\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"))
	}
	for _, name := range []string{"ranges", "tunnel_peers"} {
		var key, value []byte
		if it := first.dp.maps[name].Iterate(); it.Next(&key, &value) {
			t.Errorf("the kernel still has %s", name)
		}
	}
	c.must(first.dp.SetHosts(c.others(first)))
	c.must(first.dp.Remove())
	if got := c.network(first); strings.Contains(strings.Join(got, "\n"), "115") || strings.Contains(strings.Join(got, "\n"), tunnelDevice) {
		t.Errorf("after Remove:\n%s", strings.Join(got, "\n"))
	}
	first.dp = first.open()
}

func TestHostChanges(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.meet()
	pods := c.servers()
	first := c.hosts[0]
	ask := func(p cellPod) error {
		_, err := c.askFrom(first, pods[0].ns, "tcp4", p.ip.String()+":80")
		return err
	}
	t.Run("a new address on another link", func(t *testing.T) {
		moved := c.hosts[2] // it gets a second foot, on the near link
		second := netip.MustParseAddr("198.18.0.33")
		c.must(c.router.do(func() error { return nil }))
		c.raiseSecond(moved, second)
		hosts := c.others(first)
		hosts[1].Addresses = []netip.Addr{second}
		c.must(first.dp.SetHosts(hosts))
		if r := c.path(first, "far3"); r.Path != PathDirect || r.Via != second {
			t.Errorf("the way is %+v", r)
		}
		if _, err := first.dp.nl.LinkByName(tunnelDevice); err == nil {
			t.Error("the tunnel is still there, and nobody needs it")
		}
		c.must(first.dp.SetHosts(c.others(first)))
		if r := c.path(first, "far3"); r.Path != PathVXLAN {
			t.Errorf("the way is %+v", r)
		}
		if err := ask(pods[2]); err != nil {
			t.Error(err)
		}
	})
	t.Run("no route", func(t *testing.T) {
		hosts := append(c.others(first), Host{Name: "lost", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.9")},
			PodCIDR: netip.MustParsePrefix("10.64.99.0/24")})
		c.must(first.host.do(func() error { return unreachableRoute("203.0.113.0/24") }))
		c.must(first.dp.SetHosts(hosts))
		if r := c.path(first, "lost"); r.Path != PathUnreachable || !strings.Contains(r.Problem, "no route") {
			t.Errorf("the way is %+v", r)
		}
		if err := errors.Join(ask(pods[1]), ask(pods[2])); err != nil {
			t.Error(err)
		}
	})
	t.Run("a node is deleted", func(t *testing.T) {
		c.must(first.dp.SetHosts(c.others(first)[1:]))
		if r := c.path(first, "near2"); r.Host != "" {
			t.Errorf("still has %+v", r)
		}
		if err := ask(pods[2]); err != nil {
			t.Error(err)
		}
		have, err := first.dp.hostRoutes()
		c.must(err)
		for key := range have {
			if key.dst.Overlaps(c.hosts[1].opts.PodCIDR) {
				t.Errorf("still has a route to %s", key.dst)
			}
		}
	})
	t.Run("the MTU of the wire", func(t *testing.T) {
		c.meet()
		c.must(first.host.do(func() error { return setMTU(cellLink, 1300) }))
		c.must(first.dp.SetHosts(c.others(first)))
		if r := c.path(first, "far3"); r.MTU != 1250 {
			t.Errorf("the way is %+v", r)
		}
		c.must(pods[0].ns.do(func() error {
			link, route, err := podMTUs()
			if link != 1300 || route != 1250 {
				t.Errorf("a running pod has %d, its route %d", link, route)
			}
			return err
		}))
		if err := errors.Join(ask(pods[1]), ask(pods[2])); err != nil {
			t.Error(err)
		}
	})
}

// What comes to the tunnel's port from anybody else is dropped.
func TestTunnelTakesNothingFromStrangers(t *testing.T) {
	c := newCell(t, "near1", "far2")
	c.meet()
	first, far := c.hosts[0], c.hosts[1]
	ns, ip := first.pod(first.dp, "victim")
	var pc net.PacketConn
	c.must(ns.do(func() (err error) {
		pc, err = net.ListenPacket("udp4", ":53")
		return err
	}))
	defer pc.Close()
	inner := frame{src: "10.64.2.7:1000", dst: ip.String() + ":53", proto: UDP}
	inject := func(from namespace, vni byte, payload string) {
		t.Helper()
		conn, err := dial(from, "udp4", fmt.Sprintf("%s:%d", first.ip, DefaultVXLANPort))
		c.must(err)
		defer conn.Close()
		inner.payload = payload
		_, err = conn.Write(append([]byte{8, 0, 0, 0, 0, 0, vni, 0}, inner.bytes()...))
		c.must(err)
	}
	inject(c.outside, DefaultVNI, "stranger")
	inject(far.host, DefaultVNI+1, "another network")
	inject(far.host, DefaultVNI, "known")
	c.must(pc.SetReadDeadline(deadline()))
	buf := make([]byte, 100)
	n, _, err := pc.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "known" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	inject(far.host, DefaultVNI, "again") // nothing was merely late
	n, _, err = pc.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "again" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

// A link that goes down and comes back takes the routes with it.
func TestLinkFlap(t *testing.T) {
	c := newCell(t, "near1", "near2")
	first := c.hosts[0]
	pods := c.servers()
	ctx, cancel := context.WithCancel(context.Background())
	changed, done := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		done <- first.dp.WatchLinks(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	await := func() {
		t.Helper()
		select {
		case <-changed:
			c.must(first.dp.SetHosts(c.others(first)))
		case <-time.After(ioTimeout):
			t.Fatal("no change was noticed")
		}
	}
	c.meet()
	flap := func(up bool) error {
		link, err := netlink.LinkByName(cellLink)
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(link)
		}
		return netlink.LinkSetDown(link)
	}
	// The watch may begin a moment later than this test goes on.
	for begun := false; !begun; {
		c.must(first.host.do(func() error { return errors.Join(setMTU(cellLink, 1499), setMTU(cellLink, 1500)) }))
		select {
		case <-changed:
			begun = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	c.must(first.host.do(func() error { return flap(false) }))
	await()
	have, err := first.dp.hostRoutes()
	c.must(err)
	for key, to := range have {
		if !to.refused {
			t.Errorf("%s is led to %+v while the link is down", key.dst, to)
		}
	}
	c.must(first.host.do(func() error { return flap(true) }))
	for deadline := deadline(); c.path(first, "near2").Path != PathDirect; {
		await()
		if time.Now().After(deadline) {
			t.Fatalf("the way is %+v", c.path(first, "near2"))
		}
	}
	if _, err := c.askFrom(first, pods[0].ns, "tcp4", pods[1].ip.String()+":80"); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTooManyHosts(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	if err := d.SetHosts(make([]Host, maxHosts+1)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("got %v", err)
	}
	if errors.Is(d.SetHosts(nil), unix.EINVAL) {
		t.Error("no hosts at all is an error")
	}
}
