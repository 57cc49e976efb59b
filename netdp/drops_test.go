package netdp

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// Each way of dropping a packet is counted by its own reason, once, and so is a
// call that is refused.
func TestDropReasons(t *testing.T) {
	l, d, pod := masqueradeLab(t, nil)
	l.must(d.SetService(Service{Key: "default/empty:80/TCP", Proto: TCP, Frontends: []Frontend{
		{Port: 30081}, {Addr: netip.MustParseAddr("10.0.0.81"), Port: 80},
		{Addr: netip.MustParseAddr("203.0.113.81"), Port: 80, Outside: true}}}))
	l.must(d.SetService(Service{Key: "default/empty:80/UDP", Proto: UDP, Frontends: []Frontend{
		{Addr: netip.MustParseAddr("10.0.0.81"), Port: 80}}}))
	client, _ := l.pod(d, "client")
	uplink, link := l.linkIndex(d, labUplink), l.linkIndex(d, hostLinkName("caller"))
	run := func(program string, ifindex int, packet []byte, want uint32) func() error {
		return func() error {
			if verdict, _ := l.runProgram(d, program, ifindex, packet); verdict != want {
				return fmt.Errorf("verdict %d, want %d", verdict, want)
			}
			return nil
		}
	}
	refused := func(network string, want error) func() error {
		return func() error {
			c, err := dial(client, network, "10.0.0.81:80")
			if err == nil {
				_, err = c.Close(), errors.New("a connection")
			}
			if !errors.Is(err, want) {
				return fmt.Errorf("got %w, want %w", err, want)
			}
			return nil
		}
	}
	pods := func(src string) []byte {
		return frame{src: src + ":1000", dst: "203.0.113.80:443", proto: TCP, flags: flagSYN}.bytes()
	}
	other := append(bytes.Repeat([]byte{2}, 12), 0x88, 0xb5) // an experimental EtherType
	for _, c := range []struct {
		reason string
		do     func() error
	}{
		{"spoofed-source", run(bpf.DatapathProgPodEgress, link, pods("10.64.7.200"), verdictDrop)},
		{"unknown-family", run(bpf.DatapathProgPodEgress, link, append(other, make([]byte, 40)...), verdictDrop)},
		{"tunnel-stranger", run(bpf.DatapathProgOverlayIngress, uplink, pods("10.64.8.2"), verdictDrop)},
		{"no-ports", run(bpf.DatapathProgUplinkEgress, uplink,
			frame{src: pod.String() + ":1", dst: "203.0.113.80:2", proto: 132}.bytes(), verdictDrop)},
		{"no-backend", run(bpf.DatapathProgUplinkIngress, uplink,
			frame{src: labOutsideIP + ":40000", dst: labHostIP + ":30081", proto: TCP, flags: flagSYN}.bytes(), verdictPass)},
		{"no-backend", run(bpf.DatapathProgUplinkIngress, uplink,
			frame{src: labOutsideIP + ":40000", dst: "203.0.113.81:80", proto: TCP, flags: flagSYN}.bytes(), verdictPass)}, // to be refused
		{"malformed", run(bpf.DatapathProgUplinkEgress, uplink, pods(pod.String())[:ethLen+ipLen+16], verdictDrop)},
		{"malformed", run(bpf.DatapathProgUplinkEgress, uplink,
			errorAbout(3, 3, pod.String(), frame{src: "203.0.113.80:443", dst: pod.String() + ":1", proto: 132}.bytes()), verdictDrop)},
		{"no-ports", run(bpf.DatapathProgUplinkEgress, uplink,
			errorAbout(3, 3, pod.String(), frame{src: "203.0.113.80:443", dst: pod.String() + ":1", proto: UDP}.bytes()), verdictDrop)},
		{"no-ports", run(bpf.DatapathProgUplinkEgress, uplink,
			echo(frame{src: pod.String() + ":0", dst: "203.0.113.80:443"}, true), verdictDrop)},
		{"no-backend", refused("tcp4", unix.ECONNREFUSED)},
		{"no-backend", refused("udp4", unix.ECONNREFUSED)},
		{"port-taken", func() error {
			return l.host.do(func() error {
				// By hand: package net asks twice, for MPTCP and for TCP.
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 30081}); !errors.Is(err, unix.EADDRINUSE) {
					return fmt.Errorf("bind to a node port: %w", err)
				}
				return nil
			})
		}},
	} {
		before, err := d.Drops()
		l.must(err)
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", c.reason, err)
		}
		after, err := d.Drops()
		l.must(err)
		for reason, n := range after {
			want := before[reason]
			if reason == c.reason {
				want++
			}
			if n != want {
				t.Errorf("%s: %s was counted %d times, want %d", c.reason, reason, n-before[reason], want-before[reason])
			}
		}
	}
	calls := map[string]ServiceCounts{}
	all, err := d.ServiceCalls()
	l.must(err)
	for _, s := range all {
		calls[s.Key] = s
	}
	if got := calls["default/empty:80/TCP"]; got.Refused != 3 || got.Opened != 0 {
		t.Errorf("the TCP service has %+v, want 3 refused: two from outside, and of a socket", got)
	}
	if got := calls["default/empty:80/UDP"]; got.Refused != 1 {
		t.Errorf("the UDP service has %+v, want 1 refused", got)
	}
	recent, err := d.RecentFlows()
	l.must(err)
	found := map[string]FlowRecord{}
	for _, r := range recent {
		found[r.Reason] = r
	}
	if r := found["spoofed-source"]; r.Src.String() != "10.64.7.200:1000" || r.Dst.String() != "203.0.113.80:443" || r.Count != 1 || r.Kind != FlowDrop {
		t.Errorf("remembered %+v", r)
	}
	if r := found["no-backend"]; r.Service == "" {
		t.Errorf("remembered no service: %+v", r)
	}
}

// A flood of packets that are dropped, each from another address, is counted to
// the last, while what is remembered and told is bounded.
func TestFloodOfDrops(t *testing.T) {
	const flood = 5000
	l := newLab(t)
	d := l.openUntilEnd()
	l.pod(d, "bad")
	link := l.linkIndex(d, hostLinkName("bad"))
	base := frame{src: "192.0.2.1:1000", dst: "203.0.113.80:443", proto: UDP}
	for i := range flood {
		f := base
		f.src = fmt.Sprintf("192.0.%d.%d:1000", 2+i/250, 1+i%250)
		l.runProgram(d, bpf.DatapathProgPodEgress, link, f.bytes())
	}
	drops, err := d.Drops()
	l.must(err)
	if drops["spoofed-source"] != flood {
		t.Errorf("counted %d of %d", drops["spoofed-source"], flood)
	}
	lost, err := d.lostRecords()
	l.must(err)
	recent, err := d.RecentFlows()
	l.must(err)
	if uint64(len(recent))+lost < flood {
		t.Errorf("%d remembered and %d told as lost, of %d", len(recent), lost, flood)
	}
	if lost == 0 {
		t.Error("nothing was held back")
	}
	same, err := d.RecentFlows()
	l.must(err)
	for range 100 {
		l.runProgram(d, bpf.DatapathProgPodEgress, link, base.bytes())
	}
	again, err := d.RecentFlows()
	l.must(err)
	if len(again) > len(same)+1 {
		t.Errorf("the same packet a hundred times made %d entries", len(again)-len(same))
	}
}

// IPv6 packets are counted and remembered with their own addresses.
func TestDropsOfIPv6(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	l.pod6(d, "one")
	link := l.linkIndex(d, hostLinkName("one"))
	spoofed := frame{src: "[2001:db8:9::1]:1000", dst: "[2001:db8:9::2]:443", proto: UDP}
	local := frame{src: "[fe80::1]:1000", dst: "[ff02::16]:443", proto: UDP}
	for range 2 {
		l.runProgram(d, bpf.DatapathProgPodEgress, link, spoofed.bytes())
	}
	l.runProgram(d, bpf.DatapathProgPodEgress, link, local.bytes())
	recent, err := d.RecentFlows()
	l.must(err)
	for _, want := range []struct {
		frame
		reason string
		count  uint64
	}{{spoofed, "spoofed-source", 2}, {local, "link-local", 1}} {
		if !slices.ContainsFunc(recent, func(r FlowRecord) bool {
			return r.Src.String() == want.src && r.Dst.String() == want.dst && r.Proto == UDP && r.Reason == want.reason && r.Count == want.count
		}) {
			t.Errorf("%s > %s %s is not in %+v", want.src, want.dst, want.reason, recent)
		}
	}
}
