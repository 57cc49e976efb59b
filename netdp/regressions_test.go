package netdp

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// What users of other datapaths suffered from, by the issues in which they said
// so. Two more are tested elsewhere: full maps that nobody was told of (cilium
// #35010, #20069) by TestFullMaps, and restarts that dropped connections (cilium
// #13015) by TestConnectionsOutliveTheDaemon.

// twoDNS is a service whose backend is one of two pods.
func twoDNS(l *lab, d *Datapath) (service Service, backends [2]Backend) {
	for i, name := range []string{"one", "two"} {
		ns, ip := l.pod(d, name)
		l.serveUDP(ns, ":53", name)
		backends[i] = Backend{Addr: netip.AddrPortFrom(ip, 53)}
	}
	service = Service{Key: "dns", Proto: UDP, Backends: backends[:1],
		Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.53"), Port: 53}}}
	l.must(d.SetService(service))
	return service, backends
}

// Connected UDP sockets that stay with a dead backend: cilium #48096, #48244, of
// IPv6 sockets with a mapped address #39470; kubernetes #126130.
func TestConnectedUDPLeavesDeadBackends(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	client, _ := l.pod(d, "client")
	service, backends := twoDNS(l, d)
	var sockets []net.Conn
	for network, addr := range map[string]string{"udp4": "10.0.0.53:53", "udp": "[::ffff:10.0.0.53]:53"} {
		c, err := dial(client, network, addr)
		l.must(err)
		defer c.Close()
		if _, err := call(c, "hello"); err != nil {
			t.Fatal(err)
		}
		l.must(c.SetReadDeadline(deadline()))
		sockets = append(sockets, c)
	}
	service.Backends = backends[1:]
	l.must(d.SetService(service))
	l.must(d.Detach(t.Context(), "one"))
	for _, c := range sockets {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("reading gave %v, want connection aborted", err)
		}
	}
	if got := l.ask(client, "udp4", "10.0.0.53:53"); got[:3] != "two" {
		t.Errorf("a new socket gets %q", got)
	}
}

// A socket that calls something else by now is ended for a service it once
// called: cilium #42649.
func TestReconnectedUDPIsSpared(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	client, _ := l.pod(d, "client")
	service, backends := twoDNS(l, d)
	c, err := dial(client, "udp4", "10.0.0.53:53")
	l.must(err)
	defer c.Close()
	raw, err := c.(*net.UDPConn).SyscallConn()
	l.must(err)
	to := backends[1].Addr
	l.must(errors.Join(raw.Control(func(fd uintptr) {
		err = unix.Connect(int(fd), &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	}), err))
	var peer unix.Sockaddr
	l.must(errors.Join(raw.Control(func(fd uintptr) { peer, err = unix.Getpeername(int(fd)) }), err))
	if got := peer.(*unix.SockaddrInet4).Addr; got != to.Addr().As4() {
		t.Errorf("the socket's peer is %v, want the pod it calls now", got)
	}
	other, err := dial(client, "udp4", "10.0.0.53:53")
	l.must(err)
	defer other.Close()
	l.must(other.SetReadDeadline(deadline()))
	service.Backends = nil
	l.must(d.SetService(service))
	if _, err := other.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("the socket that still calls the service: %v, want connection aborted", err)
	}
	if got, err := call(c, "hello"); err != nil || got[:3] != "two" {
		t.Errorf("the socket that calls a pod: %q, %v", got, err)
	}
}

// A socket that was never connected is ended with the backend it has sent to, and
// loses its port: cilium #48564.
func TestUnconnectedUDPIsSpared(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	client, _ := l.pod(d, "client")
	service, backends := twoDNS(l, d)
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
		return string(buf[:min(n, 3)])
	}
	if got := ask(); got != "one" {
		t.Fatalf("the only backend answers as %q", got)
	}
	other, err := dial(client, "udp4", "10.0.0.53:53")
	l.must(err)
	defer other.Close()
	l.must(other.SetReadDeadline(deadline()))
	service.Backends = backends[1:]
	l.must(d.SetService(service))
	if _, err := other.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("a connected socket: %v, want connection aborted", err)
	}
	if got := ask(); got != "two" {
		t.Errorf("the same socket is answered by %q", got)
	}
}

// A long-lived connection breaks when its service leads to other pods, while its
// own runs on: cilium #23761.
func TestLongLivedTCPOutlivesItsService(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	client, _ := l.pod(d, "client")
	var backends [2]Backend
	for i, name := range []string{"one", "two"} {
		ns, ip := l.pod(d, name)
		l.serveTCP(ns, ":80", name)
		backends[i] = Backend{Addr: netip.AddrPortFrom(ip, 80)}
	}
	service := Service{Key: "web", Proto: TCP, Backends: backends[:1],
		Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}}}
	l.must(d.SetService(service))
	inside, err := dial(client, "tcp4", "10.0.0.10:80")
	l.must(err)
	defer inside.Close()
	outside, err := dial(l.outside, "tcp4", labHostIP+":30080")
	l.must(err)
	defer outside.Close()
	check := func(when string) {
		t.Helper()
		for what, c := range map[string]net.Conn{"of a pod": inside, "of another machine": outside} {
			if got, err := call(c, "hello"); err != nil || got[:3] != "one" {
				t.Errorf("%s, the connection %s: %q, %v", when, what, got, err)
			}
		}
	}
	check("before")
	service.Backends = backends[1:]
	l.must(d.SetService(service))
	check("after its service leads to another pod")
	if got := l.ask(l.outside, "tcp4", labHostIP+":30080"); got[:3] != "two" {
		t.Errorf("a new connection is answered by %q", got)
	}
	check("after a new connection")
}
