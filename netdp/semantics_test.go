package netdp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// External addresses are called from a pod, from the host and from another
// machine, which keeps its address.
func TestExternalAddress(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	server, serverIP := l.pod(d, "server")
	client, clientIP := l.pod(d, "client")
	l.serveTCP(server, ":8080", "server")
	l.serveUDP(server, ":8080", "server")
	for _, proto := range []Proto{TCP, UDP} {
		l.must(d.SetService(Service{Key: proto.String(), Proto: proto,
			Frontends: []Frontend{{Addr: netip.MustParseAddr("203.0.113.1"), Port: 80, Outside: true}},
			Backends:  []Backend{{Addr: netip.AddrPortFrom(serverIP, 8080)}}}))
	}
	for _, network := range []string{"tcp4", "udp4"} {
		for _, c := range []struct {
			name string
			from namespace
			seen string
		}{
			{"pod", client, clientIP.String()},
			{"the pod itself", server, serverIP.String()},
			{"host", l.host, labHostIP},
		} {
			if got, want := l.ask(c.from, network, "203.0.113.1:80"), "server "+c.seen+" hello"; got != want {
				t.Errorf("%s by %s: got %q, want %q", c.name, network, got, want)
			}
		}
		if got, want := l.askOutside(network, "203.0.113.1:80"), "server "+labOutsideIP+" hello"; got != want {
			t.Errorf("another machine by %s: got %q, want %q", network, got, want)
		}
	}
}

// A hostPort is called at the host's addresses, and from the host at loopback;
// a pod's loopback stays its own.
func TestHostPort(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	server, serverIP := l.pod(d, "server")
	client, clientIP := l.pod(d, "client")
	l.serveTCP(server, ":8080", "server")
	l.serveUDP(server, ":8080", "server")
	l.serveTCP(client, "127.0.0.1:80", "client")
	for _, proto := range []Proto{TCP, UDP} {
		l.must(d.SetService(Service{Key: "pod default/server:80/" + proto.String(), Proto: proto,
			Frontends: []Frontend{{Addr: netip.MustParseAddr(labHostIP), Port: 80, Outside: true}, {Addr: netip.MustParseAddr("127.0.0.1"), Port: 80}},
			Backends:  []Backend{{Addr: netip.AddrPortFrom(serverIP, 8080)}}}))
	}
	for _, network := range []string{"tcp4", "udp4"} {
		for _, c := range []struct {
			name string
			from namespace
			to   string
			seen string
		}{
			{"a pod", client, labHostIP, clientIP.String()},
			{"the pod itself", server, labHostIP, serverIP.String()},
			{"the host", l.host, labHostIP, labHostIP},
			{"the host at loopback", l.host, "127.0.0.1", labHostIP},
		} {
			if got, want := l.ask(c.from, network, c.to+":80"), "server "+c.seen+" hello"; got != want {
				t.Errorf("%s by %s: got %q, want %q", c.name, network, got, want)
			}
		}
		if got, want := l.askOutside(network, labHostIP+":80"), "server "+labOutsideIP+" hello"; got != want {
			t.Errorf("another machine by %s: got %q, want %q", network, got, want)
		}
	}
	if got := l.ask(client, "tcp4", "127.0.0.1:80"); got != "client 127.0.0.1 hello" {
		t.Errorf("a pod at its own loopback got %q", got)
	}
}

// A hostPort takes no answer from a program of the host that calls out from the
// same port, as the kernel may have it do.
func TestHostPortLeavesTheHostItsSockets(t *testing.T) {
	const port = 40000
	l := newLab(t)
	d := l.openUntilEnd()
	server, serverIP := l.pod(d, "server")
	l.serveTCP(server, ":80", "server")
	l.serveUDP(server, ":80", "server")
	l.outsideCgroup(func() { // else our programs see what it sends
		l.serveTCP(l.outside, labOutsideIP+":7000", "outside")
		l.serveUDP(l.outside, labOutsideIP+":7000", "outside")
	})
	for _, proto := range []Proto{TCP, UDP} {
		l.must(d.SetService(Service{Key: "pod default/server/" + proto.String(), Proto: proto,
			Frontends: []Frontend{{Addr: netip.MustParseAddr(labHostIP), Port: port, Outside: true}},
			Backends:  []Backend{{Addr: netip.AddrPortFrom(serverIP, 80)}}}))
	}
	for _, network := range []string{"tcp4", "udp4"} {
		ask := func() {
			t.Helper()
			if got := l.askOutside(network, fmt.Sprintf("%s:%d", labHostIP, port)); firstWord(got) != "server" {
				t.Errorf("a call of the hostPort by %s was answered by %q", network, got)
			}
		}
		ask()
		var own net.Conn
		l.must(l.host.do(func() (err error) {
			dialer := net.Dialer{Timeout: ioTimeout, LocalAddr: &net.TCPAddr{IP: net.ParseIP(labHostIP), Port: port}}
			if network == "udp4" {
				dialer.LocalAddr = &net.UDPAddr{IP: net.ParseIP(labHostIP), Port: port}
			}
			own, err = dialer.Dial(network, labOutsideIP+":7000")
			return err
		}))
		defer own.Close()
		for range 3 {
			if got, err := call(own, "x"); err != nil || firstWord(got) != "outside" {
				t.Errorf("the host's own call by %s was answered by %q, %v", network, got, err)
			}
			ask()
		}
	}
}

// Pods of other hosts and machines outside reach a hostPort of every host.
func TestHostPortInACell(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.meet()
	pods := c.servers()
	for _, p := range pods {
		c.must(p.host.dp.SetService(Service{Key: "pod default/web:8081/TCP", Proto: TCP,
			Frontends: []Frontend{{Addr: p.host.ip, Port: 8081, Outside: true}}, Backends: []Backend{{Addr: netip.AddrPortFrom(p.ip, 80)}}}))
	}
	for _, to := range pods {
		addr := to.host.ip.String() + ":8081"
		if got, err := c.askFrom(nil, c.outside, "tcp4", addr); err != nil || got != to.host.name+" "+cellOutside+" hello" {
			t.Errorf("from outside to %s: %q, %v", to.host.name, got, err)
		}
		for _, from := range pods {
			if got, err := c.askFrom(from.host, from.ns, "tcp4", addr); err != nil || got != to.host.name+" "+from.ip.String()+" hello" {
				t.Errorf("from a pod of %s to %s: %q, %v", from.host.name, to.host.name, got, err)
			}
		}
	}
}

// Whichever host another machine calls, its affinity leads it to one backend,
// though hosts tell each other nothing.
func TestAffinityInACell(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.meet()
	pods := c.servers()
	s := Service{Key: "web", Proto: TCP, AffinitySeconds: 60, Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}}}
	for _, p := range pods {
		s.Backends = append(s.Backends, Backend{Addr: netip.AddrPortFrom(p.ip, 80)})
	}
	c.set(s)
	names := map[string]bool{}
	for _, h := range c.hosts {
		for range 10 {
			got, err := c.askFrom(nil, c.outside, "tcp4", h.ip.String()+":30080")
			c.must(err)
			names[firstWord(got)] = true
		}
	}
	if len(names) != 1 {
		t.Errorf("%v answered one client", names)
	}
	for _, p := range pods {
		own := map[string]bool{}
		for range 10 {
			got, err := c.askFrom(p.host, p.ns, "tcp4", "10.0.0.10:80")
			c.must(err)
			own[firstWord(got)] = true
		}
		if len(own) != 1 {
			t.Errorf("%v answered a pod of %s", own, p.host.name)
		}
	}
}

// Who calls from outside what nobody serves here: the stack refuses, at an address of
// the host's own as it is, at another one at a port that nobody has.
func TestNobodyServes(t *testing.T) {
	const client = labOutsideIP + ":40000"
	elsewhere := []Backend{{Addr: netip.MustParseAddrPort("10.64.9.1:80"), Callers: OnlyInside}}
	draining := []Backend{{Addr: netip.MustParseAddrPort("10.64.9.1:80"), Draining: true}}
	for _, c := range []struct {
		name     string
		local    bool
		backends []Backend
		sources  []netip.Prefix
		node, lb uint32 // verdicts
	}{
		{"no backend", false, nil, nil, verdictPass, verdictPass},
		{"a backend that drains is none", false, draining, nil, verdictPass, verdictPass},
		{"local, no backend at all", true, nil, nil, verdictPass, verdictPass},
		{"local, backends elsewhere: another host serves it", true, elsewhere, nil, verdictDrop, verdictDrop},
		{"who may not call hears nothing", false, nil, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, verdictPass, verdictDrop},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			d := l.openUntilEnd()
			for _, proto := range []Proto{TCP, UDP} {
				l.must(d.SetService(Service{Key: proto.String(), Proto: proto, LocalOutside: c.local, Backends: c.backends, Sources: c.sources,
					Frontends: []Frontend{{Port: 30080}, {Addr: netip.MustParseAddr("203.0.113.1"), Port: 80, Outside: true, Filtered: c.sources != nil}}}))
				for dst, want := range map[string]uint32{labHostIP + ":30080": c.node, "203.0.113.1:80": c.lb} {
					in := frame{src: client, dst: dst, proto: proto, flags: flagSYN}.bytes()
					verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, l.linkIndex(d, labUplink), in)
					if verdict != want {
						t.Errorf("%s to %s: verdict %d, want %d; %s", proto, dst, verdict, want, describe(out))
					}
					if refused := want == verdictPass && dst != labHostIP+":30080"; !refused && string(out) != string(in) {
						t.Errorf("%s to %s became %s", proto, dst, describe(out))
					} else if got := fmt.Sprintf("%s %s > %s:0", proto, client, labHostIP); refused && describe(out) != got {
						t.Errorf("%s to %s became %s, want %s", proto, dst, describe(out), got)
					}
				}
			}
		})
	}
}

// At once, by the address that was called, and again by the same port.
func TestCallsOfNobodyAreRefused(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	for _, called := range []string{"203.0.113.1", "203.0.113.2", "2001:db8:7::1", "2001:db8:7::2"} {
		for _, proto := range []Proto{TCP, UDP} {
			l.must(d.SetService(Service{Key: proto.String() + called, Proto: proto,
				Frontends: []Frontend{{Addr: netip.MustParseAddr(called), Port: 80, Outside: true}}}))
		}
	}
	for _, called := range []string{"203.0.113.1:80", "203.0.113.2:80", "203.0.113.1:80", "[2001:db8:7::1]:80", "[2001:db8:7::2]:80"} {
		for network, local := range map[string]net.Addr{"tcp": &net.TCPAddr{Port: 40000}, "udp": &net.UDPAddr{Port: 40000}} {
			err := l.outside.do(func() error {
				c, err := (&net.Dialer{LocalAddr: local, Timeout: ioTimeout}).Dial(network, called)
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = call(c, "hello")
				return err
			})
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s to %s: %v, want connection refused", network, called, err)
			}
		}
	}
}

// Connections to a backend that drains go on; new ones go to others. When it
// leaves, UDP sockets that are connected to it end.
func TestDrainingKeepsConnections(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	client, _ := l.pod(d, "client")
	old, oldIP := l.pod(d, "old")
	fresh, freshIP := l.pod(d, "fresh")
	for name, ns := range map[string]namespace{"old": old, "fresh": fresh} {
		l.serveTCP(ns, ":80", name)
		l.serveUDP(ns, ":80", name)
	}
	set := func(backends ...Backend) {
		for _, proto := range []Proto{TCP, UDP} {
			l.must(d.SetService(Service{Key: proto.String(), Proto: proto, Backends: backends,
				Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}}}))
		}
	}
	open := Backend{Addr: netip.AddrPortFrom(oldIP, 80)}
	set(open)
	type connection struct {
		name string
		net.Conn
	}
	var connections []connection
	for _, network := range []string{"tcp4", "udp4"} {
		inside, err := dial(client, network, "10.0.0.10:80")
		l.must(err)
		defer inside.Close()
		var outside net.Conn
		l.outsideCgroup(func() { outside, err = dial(l.outside, network, labHostIP+":30080") })
		l.must(err)
		defer outside.Close()
		connections = append(connections, connection{"pod by " + network, inside}, connection{"another machine by " + network, outside})
	}
	check := func(when string, want map[string]string) {
		t.Helper()
		for _, c := range connections {
			got, err := call(c.Conn, "x")
			name := firstWord(got)
			if name != want[c.name] || want[c.name] != "" && err != nil {
				t.Errorf("%s, %s: answered by %q (%v), want %q", when, c.name, name, err, want[c.name])
			}
		}
	}
	check("at first", map[string]string{"pod by tcp4": "old", "another machine by tcp4": "old", "pod by udp4": "old", "another machine by udp4": "old"})
	open.Draining = true
	set(open, Backend{Addr: netip.AddrPortFrom(freshIP, 80)})
	// A datagram from outside is judged as new: nobody keeps it to a pod that ends.
	check("draining", map[string]string{"pod by tcp4": "old", "another machine by tcp4": "old", "pod by udp4": "old", "another machine by udp4": "fresh"})
	for _, network := range []string{"tcp4", "udp4"} {
		for range 10 {
			for _, answer := range []string{l.ask(client, network, "10.0.0.10:80"), l.askOutside(network, labHostIP+":30080")} {
				if name := firstWord(answer); name != "fresh" {
					t.Errorf("a new connection by %s went to %s", network, name)
				}
			}
		}
	}
	set(Backend{Addr: netip.AddrPortFrom(freshIP, 80)})
	for _, c := range connections {
		if c.name != "pod by udp4" {
			continue
		}
		l.must(c.SetReadDeadline(deadline()))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("a UDP socket connected to a backend that left: %v, want connection aborted", err)
		}
	}
}

// firstWord of an answer is who gave it.
func firstWord(answer string) string {
	name, _, _ := strings.Cut(answer, " ")
	return name
}
