package netdp

import (
	"net/netip"
	"testing"

	"shoal/bpf"
	"shoal/netdp/policy/tables"
)

// What each program refuses is dropped for the reason that says why.
func TestDropReasonsOfPrograms(t *testing.T) {
	const client, remote = labOutsideIP + ":40000", "10.64.8.7:80"
	l, d := natLab(t, remote)
	_, one := l.pod(d, "one")
	_, free := l.pod(d, "free")
	l.must(d.SetPolicy(policyTable(one, map[netip.Addr]tables.ID{one: 99})))
	external := func(addr string) []Frontend {
		return []Frontend{{Addr: netip.MustParseAddr(addr), Port: 80, Outside: true}}
	}
	for _, s := range []Service{
		{Key: "local", Proto: TCP, LocalOutside: true, Frontends: external("203.0.113.9"),
			Backends: []Backend{{Addr: netip.MustParseAddrPort(remote), Callers: OnlyInside}}},
		{Key: "ranges", Proto: TCP, Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
			Frontends: []Frontend{{Addr: netip.MustParseAddr("203.0.113.10"), Port: 80, Outside: true, Filtered: true}},
			Backends:  []Backend{{Addr: netip.AddrPortFrom(free, 80)}}},
		{Key: "here", Proto: TCP, Frontends: external("203.0.113.11"), Backends: []Backend{{Addr: netip.AddrPortFrom(free, 80)}}},
	} {
		l.must(d.SetService(s))
	}
	uplink, link := l.linkIndex(d, labUplink), l.linkIndex(d, hostLinkName("one"))
	nothing := func() {}
	for _, c := range []struct {
		reason  string
		before  func()
		program string
		ifindex int
		in      frame
	}{
		{"policy-egress", nothing, bpf.DatapathProgPodEgress, link, frame{src: one.String() + ":5", dst: "203.0.113.80:443"}},
		{"policy-ingress", nothing, bpf.DatapathProgPodEgress, l.linkIndex(d, hostLinkName("free")), frame{src: free.String() + ":5", dst: one.String() + ":81"}},
		{"policy-ingress", nothing, bpf.DatapathProgToPod, link, frame{src: client, dst: one.String() + ":81"}},
		{"no-local-backend", nothing, bpf.DatapathProgUplinkIngress, uplink, frame{src: client, dst: "203.0.113.9:80"}},
		{"source-range", nothing, bpf.DatapathProgUplinkIngress, uplink, frame{src: client, dst: "203.0.113.10:80"}},
		{"no-free-port", func() { l.fillNATs(d, netip.MustParseAddrPort(remote), TCP, 4|8, 10) },
			bpf.DatapathProgUplinkIngress, uplink, frame{src: client, dst: labHostIP + ":30080"}},
		{"no-route", func() {
			l.must(d.maps[bpf.DatapathMapNats].Put(
				bpf.DatapathFlowKey{Src: wireAddr(netip.MustParseAddr("10.64.8.7")), Dst: wireAddr(netip.MustParseAddr(labHostIP)),
					Sport: wirePort(80), Dport: wirePort(12345), Proto: uint8(TCP), Direction: 1},
				bpf.DatapathNat{Client: wireAddr(netip.MustParseAddr("192.168.77.7")), Called: wireAddr(netip.MustParseAddr(labHostIP)),
					ClientPort: wirePort(5), CalledPort: wirePort(30080)}))
		}, bpf.DatapathProgUplinkIngress, uplink, frame{src: remote, dst: labHostIP + ":12345"}},
		{"no-program", func() { l.must(d.maps[bpf.DatapathMapPrograms].Delete(uint32(programToPod))) },
			bpf.DatapathProgUplinkIngress, uplink, frame{src: client, dst: "203.0.113.11:80"}},
	} {
		c.before()
		c.in.proto, c.in.flags = TCP, flagSYN
		before := l.drops(d)[c.reason]
		verdict, _ := l.runProgram(d, c.program, c.ifindex, c.in.bytes())
		if n := l.drops(d)[c.reason] - before; verdict != verdictDrop || n != 1 {
			t.Errorf("%s: verdict %d, counted %d times", c.reason, verdict, n)
		}
	}
}
