package netdp

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// serveUDP answers every datagram with name and the caller's address.
func (l *lab) serveUDP(ns namespace, addr, name string) {
	l.t.Helper()
	var pc net.PacketConn
	l.must(ns.do(func() (err error) {
		pc, err = net.ListenPacket("udp"+familyName(addr), addr)
		return err
	}))
	l.t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 1024)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			answer := name + " " + from.(*net.UDPAddr).IP.String() + " " + string(buf[:n])
			if _, err := pc.WriteTo([]byte(answer), from); err != nil {
				return
			}
		}
	}()
}

func TestServiceUDP(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	server, serverIP := l.pod(d, "server")
	client, clientIP := l.pod(d, "client")
	l.serveUDP(server, ":5353", "server")
	service := Service{
		Key: "kube-system/dns:53", Proto: UDP,
		Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.53"), Port: 53}, {Port: 30053}},
		Backends:  []Backend{{Addr: netip.AddrPortFrom(serverIP, 5353)}},
	}
	l.must(d.SetService(service))

	t.Run("connected", func(t *testing.T) {
		c, err := dial(client, "udp4", "10.0.0.53:53")
		l.must(err)
		defer c.Close()
		answer, err := call(c, "hello")
		if err != nil || answer != "server "+clientIP.String()+" hello" {
			t.Errorf("got %q, %v", answer, err)
		}
		if got := c.RemoteAddr().String(); got != "10.0.0.53:53" {
			t.Errorf("the socket's peer is %s, want the service", got)
		}
	})
	t.Run("from another machine", func(t *testing.T) {
		if got := l.ask(l.outside, "udp4", labHostIP+":30053"); got != "server "+labOutsideIP+" hello" {
			t.Errorf("got %q", got)
		}
	})
	for _, c := range []struct{ name, network string }{
		{"unconnected", "udp4"},
		{"unconnected, IPv6 socket with a mapped address", "udp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, from := l.exchange(client, c.network, "10.0.0.53:53")
			if answer != "server "+clientIP.String()+" hello" {
				t.Errorf("got %q", answer)
			}
			if from != "10.0.0.53:53" {
				t.Errorf("the answer comes from %s, want the service", from)
			}
		})
	}
	t.Run("connected to a backend that leaves", func(t *testing.T) {
		c, err := dial(client, "udp4", "10.0.0.53:53")
		l.must(err)
		defer c.Close()
		other, err := dial(client, "udp4", serverIP.String()+":5353")
		l.must(err)
		defer other.Close()
		l.must(c.SetReadDeadline(deadline()))
		service.Backends = nil
		l.must(d.SetService(service))
		_, err = c.Read(make([]byte, 1))
		if !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("reading gave %v, want connection aborted", err)
		}
		if _, err := call(other, "hello"); err != nil {
			t.Errorf("a socket that did not use the service was ended too: %v", err)
		}
	})
	t.Run("nobody serves", func(t *testing.T) {
		if _, err := dial(client, "udp4", "10.0.0.53:53"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connecting gave %v, want connection refused", err)
		}
	})
}

// exchange sends from an unconnected socket and returns answer and sender.
func (l *lab) exchange(ns namespace, network, to string) (answer, from string) {
	l.t.Helper()
	var pc net.PacketConn
	l.must(ns.do(func() (err error) {
		pc, err = net.ListenPacket(network, ":0")
		return err
	}))
	defer pc.Close()
	l.must(pc.SetDeadline(deadline()))
	_, err := pc.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
	l.must(err)
	buf := make([]byte, 1024)
	n, sender, err := pc.ReadFrom(buf)
	l.must(err)
	ap := sender.(*net.UDPAddr).AddrPort()
	return string(buf[:n]), netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}

// Sockets are ended by what they call, whatever numbers services have: those of a
// service that has others now stay, and those that have the number of another go.
func TestSocketsOutliveTheNumbersOfServices(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	server, serverIP := l.pod(d, "server")
	client, _ := l.pod(d, "client")
	l.serveUDP(server, ":5353", "server")
	backend := []Backend{{Addr: netip.AddrPortFrom(serverIP, 5353)}}
	service := func(key string, frontends ...Frontend) Service {
		return Service{Key: key, Proto: UDP, Frontends: frontends, Backends: backend}
	}
	dns := service("dns", Frontend{Addr: netip.MustParseAddr("10.0.0.53"), Port: 53}, Frontend{Port: 30053})
	left := service("left", Frontend{Addr: netip.MustParseAddr("10.0.0.54"), Port: 53})
	first := service("first", Frontend{Addr: netip.MustParseAddr("10.0.0.55"), Port: 53})
	for _, s := range []Service{dns, left} {
		l.must(d.SetService(s))
	}
	connect := func(to string) net.Conn {
		c, err := dial(client, "udp4", to)
		l.must(err)
		l.must(c.SetReadDeadline(deadline()))
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	stays, node, goes := connect("10.0.0.53:53"), connect(labHostIP+":30053"), connect("10.0.0.54:53")
	for _, key := range []string{"dns", "left"} { // as a daemon does whose maps begin anew
		_, err := d.table.remove(key)
		l.must(err)
	}
	for _, s := range []Service{first, left, dns} {
		l.must(d.SetService(s))
	}
	for range 2 { // the second round finds the sockets by their new numbers
		left.Backends = nil
		l.must(d.SetService(left))
		if _, err := goes.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Fatalf("reading where the backend left gave %v, want connection aborted", err)
		}
		for what, c := range map[string]net.Conn{"cluster IP": stays, "node port": node} {
			if answer, err := call(c, "hello"); err != nil {
				t.Errorf("%s: %q, %v", what, answer, err)
			}
		}
		left.Backends = backend
		l.must(d.SetService(left))
		goes = connect("10.0.0.54:53")
	}
}

// An unconnected socket keeps to one backend of a service while that one takes
// traffic, as a conversation in several datagrams needs.
func TestUnconnectedUDPKeepsItsBackend(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	client, _ := l.pod(d, "client")
	service := Service{Key: "dns", Proto: UDP, Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.53"), Port: 53}}}
	for i := range 8 {
		name := string(rune('a' + i))
		ns, ip := l.pod(d, name)
		l.serveUDP(ns, ":53", name)
		service.Backends = append(service.Backends, Backend{Addr: netip.AddrPortFrom(ip, 53)})
	}
	l.must(d.SetService(service))
	var pc net.PacketConn
	l.must(client.do(func() (err error) {
		pc, err = net.ListenPacket("udp4", ":0")
		return err
	}))
	defer pc.Close()
	ask := func() string {
		l.must(pc.SetDeadline(deadline()))
		_, err := pc.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.IPv4(10, 0, 0, 53), Port: 53})
		l.must(err)
		buf := make([]byte, 64)
		n, _, err := pc.ReadFrom(buf)
		l.must(err)
		name, _, _ := strings.Cut(string(buf[:n]), " ")
		return name
	}
	first := ask()
	for range 20 {
		if got := ask(); got != first {
			t.Fatalf("went from %s to %s", first, got)
		}
	}
	service.Backends[first[0]-'a'].Draining = true
	l.must(d.SetService(service))
	second := ask()
	if second == first {
		t.Errorf("still sends to %s, which drains", first)
	}
	if got := ask(); got != second {
		t.Errorf("went from %s to %s", second, got)
	}
}
