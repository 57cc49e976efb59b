package netdp

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/bpf"
)

func prefixes(all ...string) (out []netip.Prefix) {
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// filteredLab is a lab whose service has source ranges at one of its addresses.
// The caller removes the datapath.
func filteredLab(t *testing.T) (*lab, *Datapath, Service) {
	l := newLab(t)
	d := l.open()
	server, ip := l.pod(d, "server")
	l.serveTCP(server, ":80", "server")
	return l, d, Service{Key: "web", Proto: TCP, Frontends: []Frontend{
		{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080},
		{Addr: netip.MustParseAddr("203.0.113.1"), Port: 80, Outside: true},
		{Addr: netip.MustParseAddr("203.0.113.2"), Port: 80, Outside: true, Filtered: true},
	}, Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 80)}}}
}

func TestSourceRangesOfPackets(t *testing.T) {
	const client, filtered = "198.51.100.7:40000", "203.0.113.2:80"
	for _, c := range []struct {
		name    string
		sources []netip.Prefix
		dst     string
		verdict uint32
	}{
		{"in the range", prefixes("198.51.100.0/24"), filtered, verdictRedirect},
		{"its address alone", prefixes("198.51.100.7/32"), filtered, verdictRedirect},
		{"in one of several", prefixes("192.0.2.0/24", "198.51.0.0/16"), filtered, verdictRedirect},
		{"everybody", prefixes("0.0.0.0/0"), filtered, verdictRedirect},
		{"in no range", prefixes("198.51.101.0/24"), filtered, verdictDrop},
		{"the next address", prefixes("198.51.100.8/32"), filtered, verdictDrop},
		{"nobody", nil, filtered, verdictDrop},
		{"everybody of IPv6", prefixes("::/0"), filtered, verdictDrop},
		{"an address that is not filtered", prefixes("192.0.2.0/24"), "203.0.113.1:80", verdictRedirect},
		{"a node port", prefixes("192.0.2.0/24"), labHostIP + ":30080", verdictRedirect},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, d, s := filteredLab(t)
			defer func() { l.must(d.Remove()) }()
			s.Sources = c.sources
			l.must(d.SetService(s))
			in := frame{src: client, dst: c.dst, proto: TCP, flags: flagSYN}
			if verdict, _ := l.runProgram(d, bpf.DatapathProgUplinkIngress, l.linkIndex(d, labUplink), in.bytes()); verdict != c.verdict {
				t.Errorf("verdict %d, want %d", verdict, c.verdict)
			}
		})
	}
}

// Ranges judge new connections; open ones go on. Another service's ranges, and
// those that were taken back, do not count.
func TestSourceRangesChange(t *testing.T) {
	l, d, s := filteredLab(t)
	defer func() { l.must(d.Remove()) }()
	other := Service{Key: "other", Proto: TCP, Sources: prefixes("0.0.0.0/0"),
		Frontends: []Frontend{{Addr: netip.MustParseAddr("203.0.113.3"), Port: 80, Outside: true, Filtered: true}}, Backends: s.Backends}
	l.must(d.SetService(other))
	in := frame{src: "198.51.100.7:40000", dst: "203.0.113.2:80", proto: TCP}
	check := func(what string, flags byte, want uint32) {
		t.Helper()
		in.flags = flags
		if got, _ := l.runProgram(d, bpf.DatapathProgUplinkIngress, l.linkIndex(d, labUplink), in.bytes()); got != want {
			t.Errorf("%s: verdict %d, want %d", what, got, want)
		}
	}
	set := func(sources ...string) {
		s.Sources = prefixes(sources...)
		l.must(d.SetService(s))
	}
	set("198.51.100.0/24")
	check("a new connection", flagSYN, verdictRedirect)
	set("192.0.2.0/24")
	check("the same after the range was taken back", flagACK, verdictRedirect)
	check("a new one after the range was taken back", flagSYN, verdictDrop)
	set("198.51.100.0/24", "198.51.100.7/32")
	check("two ranges", flagSYN, verdictRedirect)
	set("198.51.100.0/24")
	check("the wider is left", flagSYN, verdictRedirect)
	l.must(d.Close())
	d = l.open()
	l.must(d.SetService(other))
	set()
	check("none is left by the earlier daemon", flagSYN, verdictDrop)
	l.must(d.DeleteService("other"))
	l.must(d.DeleteService("web"))
	left := 0
	l.must(readMap(d.maps[bpf.DatapathMapSources], func(bpf.DatapathSourceKey, uint32) { left++ }))
	if left > 0 {
		t.Errorf("%d ranges are left of services that are gone", left)
	}
}

// Pods and the host are judged by their addresses.
func TestSourceRangesOfSockets(t *testing.T) {
	l, d, s := filteredLab(t)
	defer func() { l.must(d.Remove()) }()
	one, oneIP := l.pod(d, "one")
	two, twoIP := l.pod(d, "two")
	s.Sources = []netip.Prefix{netip.PrefixFrom(oneIP, 32), netip.MustParsePrefix(labOutsideIP + "/32")}
	l.must(d.SetService(s))
	const filtered = "203.0.113.2:80"
	refused := func(what string, ns namespace) {
		t.Helper()
		c, err := dial(ns, "tcp4", filtered)
		if err == nil {
			_ = c.Close()
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: connecting gave %v, want connection refused", what, err)
		}
	}
	l.ask(one, "tcp4", filtered)
	refused("a pod out of the ranges", two)
	refused("the host out of the ranges", l.host)
	l.ask(two, "tcp4", "203.0.113.1:80")
	l.ask(two, "tcp4", "10.0.0.10:80")
	if got := l.askOutside("tcp4", filtered); got != "server "+labOutsideIP+" hello" {
		t.Errorf("another machine got %q", got)
	}
	s.Sources = []netip.Prefix{netip.PrefixFrom(twoIP, 32), netip.MustParsePrefix(labHostIP + "/32")}
	l.must(d.SetService(s))
	l.ask(two, "tcp4", filtered)
	l.ask(l.host, "tcp4", filtered)
	refused("a pod out of the ranges", one)

	// Namespaces are known to the next daemon, and forgotten with their pods.
	l.must(d.Detach(t.Context(), "one"))
	count := func() (n int) {
		l.must(readMap(d.maps[bpf.DatapathMapCallers], func(uint64, bpf.DatapathCaller) { n++ }))
		return n
	}
	if n := count(); n != 3 { // the host, server, two
		t.Errorf("%d namespaces are known", n)
	}
	l.must(d.maps[bpf.DatapathMapCallers].Put(uint64(1), bpf.DatapathCaller{})) // of a pod that went unseen
	l.must(d.Close())
	d = l.open()
	l.must(d.SetService(s))
	l.ask(two, "tcp4", filtered)
	if n := count(); n != 3 {
		t.Errorf("%d namespaces are known after a restart", n)
	}
}
