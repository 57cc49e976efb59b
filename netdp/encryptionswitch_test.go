package netdp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"shoal/bpf"
	"shoal/netdp/wireguard"
)

// kept is a connection that is to outlive what happens to the cell.
type kept struct {
	what string
	conn net.Conn
	want string // how each answer begins
}

// open begins a connection and says something by it.
func (c *cell) open(h *cellHost, ns namespace, to, what, want string) kept {
	c.t.Helper()
	k := kept{what: what, want: want}
	dialed := func() {
		var err error
		k.conn, err = dial(ns, "tcp"+familyName(to), to)
		c.must(err)
	}
	if h == nil {
		dialed()
	} else {
		c.in(h, dialed)
	}
	c.t.Cleanup(func() { _ = k.conn.Close() })
	c.goesOn("at first", k)
	return k
}

// goesOn: what is said by each is answered. Answers to what was said before are passed by.
func (c *cell) goesOn(when string, all ...kept) {
	c.t.Helper()
	for _, k := range all {
		said := fmt.Sprintf("%s %d.", wireMarker, rand.Uint32())
		c.must(k.conn.SetDeadline(deadline()))
		_, err := k.conn.Write([]byte(said))
		var got string
		for buf := make([]byte, 1024); err == nil && !strings.HasSuffix(got, said); {
			var n int
			n, err = k.conn.Read(buf)
			got += string(buf[:n])
		}
		if err != nil || !strings.HasPrefix(got, k.want) {
			c.t.Errorf("%s, %s: %q, %v; want %q", when, k.what, got, err, k.want)
		}
	}
}

// plainly takes the keys away again.
func (c *cell) plainly(hosts ...*cellHost) {
	c.t.Helper()
	for _, h := range hosts {
		h.opts.WireGuardKey = wireguard.PrivateKey{}
		c.must(h.dp.SetEncryption(wireguard.PrivateKey{}))
	}
}

// Open connections outlive that hosts begin to encrypt, and that they end it: of
// callers outside through addresses that all hosts share and through node ports, of
// pods and of hosts. It takes a while until all hosts have followed.
func TestConnectionsOutliveEncryptionSwitch(t *testing.T) {
	c := newDualCell(t, "near1", "near2", "far3")
	for _, h := range c.hosts {
		h.dp.opts.CellPodCIDR = netip.MustParsePrefix("10.64.0.0/10")
		h.dp.opts.CellPodCIDR6 = netip.MustParsePrefix("fd00:64::/32")
		h.opts.CellPodCIDR, h.opts.CellPodCIDR6 = h.dp.opts.CellPodCIDR, h.dp.opts.CellPodCIDR6
	}
	c.meet()
	first, pods := c.hosts[0], c.servers6()
	vips := []netip.Addr{netip.MustParseAddr(announced), netip.MustParseAddr("2001:db8:18::c8")}
	c.must(c.responder(first.host).Set([]string{cellLink}, vips, false))
	clusterIPs := []netip.Addr{netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("fd00:10::a")}
	anyNode := []netip.Addr{{}, NodePortIPv6}
	backend := func(p cellPod, six bool) netip.Addr {
		if six {
			return p.ip
		}
		return p.host.dp.pods.byUID[p.host.name+"-pod"].record.Address
	}
	for i, six := range []bool{false, true} {
		for n, p := range pods[1:] {
			port := uint16(81 + n)
			c.set(Service{Key: fmt.Sprint(p.host.name, six), Proto: TCP, Frontends: []Frontend{
				{Addr: vips[i], Port: port, Outside: true}, {Addr: clusterIPs[i], Port: port}, {Addr: anyNode[i], Port: 30000 + port}},
				Backends: []Backend{{Addr: netip.AddrPortFrom(backend(p, six), 80)}}})
		}
	}
	begin := func(when string) (all []kept) {
		t.Helper()
		for i, six := range []bool{false, true} {
			own, outside := first.ip, cellOutside
			if six {
				own, outside = first.ip6, cellOutside6
			}
			for n, p := range pods[1:] {
				port := uint16(81 + n)
				name := fmt.Sprintf(" of a pod of %s (IPv6: %t), begun %s", p.host.name, six, when)
				add := func(h *cellHost, ns namespace, to netip.Addr, port uint16, what, caller string) {
					all = append(all, c.open(h, ns, at6(to, port), what+name, strings.TrimSpace(p.host.name+" "+caller)))
				}
				caller := own.String() // passed on in this host's name
				if when == "in the clear" && p.host.name == "near2" {
					caller = outside
				}
				add(nil, c.outside, vips[i], port, "a shared address", caller)
				add(nil, c.outside, own, 30000+port, "a node port", own.String())
				pod := backend(pods[0], six).String()
				add(first, pods[0].ns, backend(p, six), 80, "a pod's call", pod)
				add(first, pods[0].ns, clusterIPs[i], port, "a pod's call of a service", pod)
				add(first, first.host, backend(p, six), 80, "a host's call", own.String())
				add(first, pods[0].ns, vips[i], port, "a pod's call of a shared address", pod)
			}
		}
		return all
	}
	all := begin("in the clear")
	for range 2 {
		for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}} {
			for _, i := range order {
				c.encrypt(c.hosts[i])
				for _, k := range all { // what is said before the ways are known is said again by TCP
					if _, err := k.conn.Write([]byte(wireMarker)); err != nil {
						t.Errorf("%s: %v", k.what, err)
					}
				}
				c.meet()
			}
			c.goesOn("encrypted", all...)
			all = append(all, begin("encrypted")...)
			for _, i := range order {
				c.plainly(c.hosts[i])
				c.meet()
			}
			c.goesOn("in the clear again", all...)
		}
	}
}

// A connection that goes on being handed over is ended by nobody who knows its ports, and
// what begins from the same ports after it is encrypted.
func TestHandedOverConnectionIsKeptFromForgery(t *testing.T) {
	c := newCell(t, "near1", "near2")
	c.meet()
	first, pod := c.hosts[0], c.server(c.hosts[1])
	c.set(Service{Key: "web", Proto: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr(announced), Port: 80, Outside: true}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(pod.ip, 80)}}})
	c.must(c.responder(first.host).Set([]string{cellLink}, []netip.Addr{netip.MustParseAddr(announced)}, false))
	const to, handed = announced + ":80", "near2 " + cellOutside
	passedOn := "near2 " + first.ip.String()
	open := c.open(nil, c.outside, to, "a connection", handed)
	c.encrypt(c.hosts...)
	c.meet()
	c.goesOn("encrypted", open)
	from := open.conn.LocalAddr().String()
	for i, flags := range []byte{flagSYN, flagACK, flagSYN, flagACK} {
		forged := frame{src: from, dst: to, proto: TCP, flags: flags, seq: uint32(1000 + i)}.bytes()
		copy(forged, c.mac(first.host))
		c.injectBy(cellLink, forged)
		c.goesOn(fmt.Sprintf("after forged packet %d", i+1), open)
	}
	anew := func() (entry bpf.DatapathFlow, err error) {
		client := netip.MustParseAddrPort(from)
		key := bpf.DatapathFlowKey{Src: wireAddr(client.Addr()), Dst: wireAddr(netip.MustParseAddr(announced)),
			Sport: wirePort(client.Port()), Dport: wirePort(80), Proto: unix.IPPROTO_TCP, Direction: 3}
		return entry, first.dp.maps[bpf.DatapathMapFlows].Lookup(key, &entry)
	}
	if entry, err := anew(); err != nil || entry.NatPort == 0 {
		t.Errorf("the forged SYN was not passed on: %+v, %v", entry, err)
	}
	c.must(open.conn.(*net.TCPConn).SetLinger(0)) // a reset leaves no TIME_WAIT
	c.must(open.conn.Close())
	for range 2 {
		answer, err := c.callFrom(c.outside, "tcp4", open.conn.LocalAddr().(*net.TCPAddr).Port, to)
		if err != nil || !strings.HasPrefix(answer, passedOn+" ") {
			t.Errorf("from the same port after it: %q, %v; want %q", answer, err, passedOn)
		}
	}
	if _, err := anew(); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("what is noted of it beside the other is left: %v", err)
	}
}
