package netdp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// affinityLab is a lab whose service has eight pods and keeps clients for an hour.
func affinityLab(t *testing.T, proto Proto) (*lab, *Datapath, Service) {
	l := newLab(t)
	d := l.openUntilEnd()
	s := Service{Key: "web", Proto: proto, AffinitySeconds: 3600,
		Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}}}
	for i := range 8 {
		name := string(rune('a' + i))
		ns, ip := l.pod(d, name)
		l.serveTCP(ns, ":80", name)
		l.serveUDP(ns, ":80", name)
		s.Backends = append(s.Backends, Backend{Addr: netip.AddrPortFrom(ip, 80)})
	}
	l.must(d.SetService(s))
	return l, d, s
}

// affinities reads the kernel's entries.
func (l *lab) affinities(d *Datapath) map[bpf.DatapathAffinityKey]bpf.DatapathAffinity {
	l.t.Helper()
	out := map[bpf.DatapathAffinityKey]bpf.DatapathAffinity{}
	m := d.maps[bpf.DatapathMapAffinities]
	var key bpf.DatapathAffinityKey
	var value bpf.DatapathAffinity
	it := m.Iterate()
	for it.Next(&key, &value) {
		out[key] = value
	}
	l.must(it.Err())
	return out
}

// begin sends what opens a connection and returns the backend it went to.
func (l *lab) begin(d *Datapath, proto Proto, client string) netip.Addr {
	l.t.Helper()
	in := frame{src: client, dst: labHostIP + ":30080", proto: proto, flags: flagSYN}
	verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, l.linkIndex(d, labUplink), in.bytes())
	if verdict != verdictRedirect {
		l.t.Fatalf("%s from %s: verdict %d", proto, client, verdict)
	}
	_, dst := frameEnds(out)
	return dst.Addr()
}

func TestAffinityFromOutside(t *testing.T) {
	for _, proto := range []Proto{TCP, UDP} {
		t.Run(proto.String(), func(t *testing.T) {
			l, d, s := affinityLab(t, proto)
			port := 40000
			next := func() netip.Addr {
				port++
				return l.begin(d, proto, fmt.Sprintf("%s:%d", labOutsideIP, port))
			}
			first := next()
			for range 30 {
				if got := next(); got != first {
					t.Fatalf("went from %s to %s", first, got)
				}
			}
			for key := range l.affinities(d) { // as on a host that has not seen the client
				l.must(d.maps[bpf.DatapathMapAffinities].Delete(key))
			}
			if got := next(); got != first {
				t.Errorf("without an entry it went to %s, not %s: another host would do so", got, first)
			}
			backends := map[netip.Addr]bool{}
			for i := range 50 {
				backends[l.begin(d, proto, fmt.Sprintf("198.18.0.%d:40000", 10+i))] = true
			}
			if len(backends) < 4 {
				t.Errorf("50 clients went to only %d of 8 backends", len(backends))
			}

			drain := func(addr netip.Addr, on bool) {
				for i := range s.Backends {
					if s.Backends[i].Addr.Addr() == addr {
						s.Backends[i].Draining = on
					}
				}
				l.must(d.SetService(s))
			}
			drain(first, true)
			second := next()
			if second == first {
				t.Fatal("a new connection went to a backend that drains")
			}
			drain(first, false)
			if got := next(); got != second {
				t.Errorf("left %s for %s when that one came back", second, got)
			}
			l.age(d, 3601)
			if got := next(); got != first {
				t.Errorf("after the time was over it went to %s, want %s", got, first)
			}
			l.age(d, 3500)
			next()
			for key, value := range l.affinities(d) {
				used := key.Client == wireAddr(netip.MustParseAddr(labOutsideIP))
				if idle := l.idle(value); used != (idle < 3400) {
					t.Errorf("the entry of %s is %d s old", addrFromWire(key.Client), idle)
				}
			}
		})
	}
}

// age makes every entry look as if it was used so long ago.
func (l *lab) age(d *Datapath, seconds uint64) {
	l.t.Helper()
	for key, value := range l.affinities(d) {
		value.SeenNs = l.now() - seconds*1_000_000_000
		l.must(d.maps[bpf.DatapathMapAffinities].Put(key, value))
	}
}

func (l *lab) idle(a bpf.DatapathAffinity) uint64 { return (l.now() - a.SeenNs) / 1_000_000_000 }

// now is the clock of bpf_ktime_get_ns.
func (l *lab) now() uint64 {
	l.t.Helper()
	var now unix.Timespec
	l.must(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	return uint64(now.Nano())
}

// Pods are clients of their own, whatever socket calls.
func TestAffinityOfPods(t *testing.T) {
	l, d, s := affinityLab(t, TCP)
	udp := s
	udp.Key, udp.Proto = "udp", UDP
	l.must(d.SetService(udp))
	one, _ := l.pod(d, "one")
	two, _ := l.pod(d, "two")
	who := func(ns namespace, network, addr string) string {
		t.Helper()
		name, _, _ := strings.Cut(l.ask(ns, network, addr), " ")
		return name
	}
	sameTen := func(ns namespace, network, addr string) string {
		t.Helper()
		first := who(ns, network, addr)
		for range 10 {
			if got := who(ns, network, addr); got != first {
				t.Fatalf("%s %s: went from %s to %s", network, addr, first, got)
			}
		}
		return first
	}
	first := sameTen(one, "tcp4", "10.0.0.10:80")
	if got := sameTen(one, "tcp4", labHostIP+":30080"); got != first {
		t.Errorf("by the node port it went to %s, by the cluster IP to %s", got, first)
	}
	sameTen(two, "tcp4", "10.0.0.10:80")
	sameTen(l.host, "tcp4", "10.0.0.10:80")
	sameTen(one, "udp4", "10.0.0.10:80")
	answer, _ := l.exchange(one, "udp4", "10.0.0.10:80")
	if got := who(one, "udp4", "10.0.0.10:80"); got != strings.Fields(answer)[0] {
		t.Errorf("a connected socket went to %s, an unconnected one to %s", got, strings.Fields(answer)[0])
	}
	if n := len(l.affinities(d)); n != 4 {
		t.Errorf("%d entries for three clients of the one service and one of the other", n)
	}
	gone := int(first[0] - 'a')
	left := append([]Backend{}, s.Backends...)
	left = append(left[:gone], left[gone+1:]...)
	s.Backends = left
	l.must(d.SetService(s))
	second := sameTen(one, "tcp4", "10.0.0.10:80")
	if second == first {
		t.Error("went to a backend that left")
	}
	s.AffinitySeconds = 0
	l.must(d.SetService(s))
	names := map[string]bool{}
	for range 60 {
		names[who(one, "tcp4", "10.0.0.10:80")] = true
	}
	if len(names) < 3 {
		t.Errorf("without affinity it still goes to %v only", names)
	}
}
