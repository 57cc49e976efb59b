package netdp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/bpf"
)

func TestAffinityIPv6(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	s := Service{Key: "web", Proto: TCP, AffinitySeconds: 3600,
		Frontends: []Frontend{{Addr: netip.MustParseAddr("fd00:10::10"), Port: 80}, {Addr: NodePortIPv6, Port: 30080}}}
	for i := range 8 {
		name := string(rune('a' + i))
		ns, ip := l.pod6(d, name)
		l.serveTCP(ns, "[::]:80", name)
		s.Backends = append(s.Backends, Backend{Addr: netip.AddrPortFrom(ip, 80)})
	}
	l.must(d.SetService(s))
	begin := func(client string) netip.Addr {
		t.Helper()
		in := frame{src: client, dst: node6(30080), proto: TCP, flags: flagSYN}
		verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, l.linkIndex(d, labUplink), in.bytes())
		if verdict != verdictRedirect {
			t.Fatalf("from %s: verdict %d", client, verdict)
		}
		_, dst := frameEnds(out)
		return dst.Addr()
	}
	first := begin("[" + labOutsideIP6 + "]:40000")
	backends := map[netip.Addr]bool{}
	for i := range 40 {
		if got := begin(fmt.Sprintf("[%s]:%d", labOutsideIP6, 40001+i)); got != first {
			t.Fatalf("one client went to %s and %s", first, got)
		}
		backends[begin(fmt.Sprintf("[2001:db8:18::%d]:40000", 10+i))] = true
	}
	if len(backends) < 4 {
		t.Errorf("40 clients went to only %d of 8 backends", len(backends))
	}
	client, _ := l.pod6(d, "client")
	name := firstWord(l.ask(client, "tcp6", "[fd00:10::10]:80"))
	for range 10 {
		if got := firstWord(l.ask(client, "tcp6", "[fd00:10::10]:80")); got != name {
			t.Fatalf("a pod went from %s to %s", name, got)
		}
	}
}

func TestSourceRangesIPv6(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	server, ip := l.pod6(d, "server")
	l.serveTCP(server, "[::]:80", "server")
	one, oneIP := l.pod6(d, "one")
	two, _ := l.pod6(d, "two")
	const filtered = "[2001:db8:7::7]:80"
	s := Service{Key: "web", Proto: TCP, Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 80)}},
		Frontends: []Frontend{{Addr: netip.MustParseAddr("2001:db8:7::7"), Port: 80, Outside: true, Filtered: true}}}
	for _, c := range []struct {
		sources []netip.Prefix
		verdict uint32
	}{
		{prefixes("2001:db8:18::/64"), verdictRedirect},
		{prefixes(labOutsideIP6 + "/128"), verdictRedirect},
		{prefixes("::/0"), verdictRedirect},
		{prefixes("2001:db8:19::/64"), verdictDrop},
		{prefixes("0.0.0.0/0"), verdictDrop},
	} {
		s.Sources = c.sources
		l.must(d.SetService(s))
		in := frame{src: "[" + labOutsideIP6 + "]:40000", dst: filtered, proto: TCP, flags: flagSYN}
		if verdict, _ := l.runProgram(d, bpf.DatapathProgUplinkIngress, l.linkIndex(d, labUplink), in.bytes()); verdict != c.verdict {
			t.Errorf("from %v: verdict %d, want %d", c.sources, verdict, c.verdict)
		}
	}
	s.Sources = []netip.Prefix{netip.PrefixFrom(oneIP, 128)}
	l.must(d.SetService(s))
	l.ask(one, "tcp6", filtered)
	if c, err := dial(two, "tcp6", filtered); !errors.Is(err, unix.ECONNREFUSED) {
		if err == nil {
			_ = c.Close()
		}
		t.Errorf("a pod out of the ranges: %v, want connection refused", err)
	}
}

func TestHostPortIPv6(t *testing.T) {
	const port = 40000
	l := dualLab(t)
	d := l.openUntilEnd()
	server, ip := l.pod6(d, "server")
	l.serveTCP(server, "[::]:80", "server")
	l.outsideCgroup(func() { l.serveTCP(l.outside, "[::]:7000", "outside") })
	l.must(d.SetService(Service{Key: "pod default/server:40000/TCP by IPv6", Proto: TCP, Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 80)}},
		Frontends: []Frontend{{Addr: netip.MustParseAddr(labHostIP6), Port: port, Outside: true}, {Addr: netip.IPv6Loopback(), Port: port}}}))
	if got := l.askOutside("tcp6", node6(port)); got != "server "+labOutsideIP6+" hello" {
		t.Errorf("another machine got %q", got)
	}
	if got := firstWord(l.ask(l.host, "tcp6", "[::1]:40000")); got != "server" {
		t.Errorf("the host at loopback got %q", got)
	}
	if c, err := dial(server, "tcp6", "[::1]:40000"); err == nil {
		_ = c.Close()
		t.Error("a pod's own loopback led to the hostPort")
	}
	var own net.Conn
	l.must(l.host.do(func() (err error) {
		dialer := net.Dialer{Timeout: ioTimeout, LocalAddr: &net.TCPAddr{IP: net.ParseIP(labHostIP6), Port: port}}
		own, err = dialer.Dial("tcp6", "["+labOutsideIP6+"]:7000")
		return err
	}))
	defer own.Close()
	if got, err := call(own, "x"); err != nil || firstWord(got) != "outside" {
		t.Errorf("the host's own call was answered by %q, %v", got, err)
	}
}
