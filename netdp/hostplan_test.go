package netdp

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"shoal/bpf"
	"shoal/netdp/wireguard"
)

func TestPlanHosts(t *testing.T) {
	h := func(name, cidr string, addrs ...string) Host {
		out := Host{Name: name}
		if cidr != "" {
			out.PodCIDR = netip.MustParsePrefix(cidr)
		}
		for _, a := range addrs {
			out.Addresses = append(out.Addresses, netip.MustParseAddr(a))
		}
		return out
	}
	reach := func(a netip.Addr) (reached, string) { // 192.0.2/24 is near, 198.51.100/24 far
		switch {
		case netip.MustParsePrefix("192.0.2.0/24").Contains(a):
			return reached{direct: true, device: "eth0", mtu: 9000}, ""
		case netip.MustParsePrefix("198.51.100.0/24").Contains(a):
			return reached{device: "eth0", mtu: 1500}, ""
		}
		return reached{}, "this host has no route"
	}
	rules := hostRules{own: netip.MustParsePrefix("10.64.0.0/24"), services: netip.MustParsePrefix("10.0.0.0/16")}
	for _, c := range []struct {
		name  string
		hosts []Host
		want  []string // host path via device mtu, or what the problem has
	}{
		{"near", []Host{h("a", "10.64.1.0/24", "192.0.2.1")}, []string{"a direct 192.0.2.1 eth0 9000"}},
		{"far", []Host{h("a", "10.64.1.0/24", "198.51.100.1")}, []string{"a vxlan 198.51.100.1 shoal-vxlan 1450"}},
		{"the near address of several", []Host{h("a", "10.64.1.0/24", "203.0.113.1", "198.51.100.1", "192.0.2.1")},
			[]string{"a direct 192.0.2.1 eth0 9000"}},
		{"the first far one", []Host{h("a", "10.64.1.0/24", "198.51.100.2", "198.51.100.1")}, []string{"a vxlan 198.51.100.2 shoal-vxlan 1450"}},
		{"mapped and IPv6 addresses", []Host{h("a", "10.64.1.0/24", "2001:db8::1", "::ffff:192.0.2.1")}, []string{"a direct 192.0.2.1 eth0 9000"}},
		{"no way", []Host{h("a", "10.64.1.0/24", "203.0.113.1")}, []string{"a: no route"}},
		{"no address", []Host{h("a", "10.64.1.0/24"), h("b", "10.64.2.0/24", "2001:db8::1", "127.0.0.1", "0.0.0.0")},
			[]string{"a: no IPv4 InternalIP", "b: no IPv4 InternalIP"}},
		{"no range", []Host{h("a", "", "192.0.2.1")}, []string{"a: no podCIDR"}},
		{"IPv6 range", []Host{h("a", "fd00::/64", "192.0.2.1")}, []string{"a: no IPv4 range"}},
		{"unmasked range", []Host{h("a", "10.64.1.7/24", "192.0.2.1")}, []string{"a: no IPv4 range"}},
		{"everything", []Host{h("a", "0.0.0.0/0", "192.0.2.1")}, []string{"a: no IPv4 range"}},
		{"our range", []Host{h("a", "10.64.0.0/16", "192.0.2.1")}, []string{"a: that of this host"}},
		{"the services", []Host{h("a", "10.0.7.0/24", "192.0.2.1")}, []string{"a: overlaps the services"}},
		{"an address among our pods", []Host{h("a", "10.64.1.0/24", "10.64.0.9")}, []string{"a: range of pods"}},
		{"an address among its own pods", []Host{h("a", "192.0.2.0/24", "192.0.2.1")}, []string{"a: range of pods"}},
		{"the same range twice", []Host{h("a", "10.64.1.0/24", "192.0.2.1"), h("b", "10.64.1.0/24", "192.0.2.2")},
			[]string{"a direct 192.0.2.1 eth0 9000", "b: overlaps that of host a"}},
		{"a smaller range inside", []Host{h("a", "10.64.2.0/23", "192.0.2.1"), h("b", "10.64.3.0/24", "192.0.2.2"), h("c", "10.64.4.0/24", "192.0.2.3")},
			[]string{"a direct 192.0.2.1 eth0 9000", "b: overlaps that of host a", "c direct 192.0.2.3 eth0 9000"}},
		{"a larger range around", []Host{h("a", "10.64.3.0/24", "192.0.2.1"), h("b", "10.64.2.0/23", "192.0.2.2")},
			[]string{"a direct 192.0.2.1 eth0 9000", "b: overlaps that of host a"}},
		{"the same address twice", []Host{h("a", "10.64.1.0/24", "192.0.2.1"), h("b", "10.64.2.0/24", "192.0.2.1")},
			[]string{"a direct 192.0.2.1 eth0 9000", "b: also that of host a"}},
		{"a refused host keeps nothing", []Host{h("a", "10.64.1.0/24"), h("b", "10.64.1.0/24", "192.0.2.2")},
			[]string{"a: no IPv4", "b direct 192.0.2.2 eth0 9000"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := planHosts(c.hosts, rules, reach)
			if len(got) != len(c.want) {
				t.Fatalf("got %d routes", len(got))
			}
			for i, r := range got {
				if name, problem, ok := strings.Cut(c.want[i], ": "); ok {
					if r.Host != name || r.Path != PathUnreachable || r.Via.IsValid() || !strings.Contains(r.Problem, problem) {
						t.Errorf("got %+v, want %s", r, c.want[i])
					}
					continue
				}
				if text := fmt.Sprintf("%s %s %s %s %d", r.Host, r.Path, r.Via, r.Device, r.MTU); text != c.want[i] || r.Problem != "" {
					t.Errorf("got %s (%s), want %s", text, r.Problem, c.want[i])
				}
			}
		})
	}
}

func TestPlanEncryptedHosts(t *testing.T) {
	reach := func(a netip.Addr) (reached, string) {
		if netip.MustParsePrefix("192.0.2.0/24").Contains(a) {
			return reached{direct: true, device: "eth0", mtu: 1330}, ""
		}
		return reached{}, "this host has no route"
	}
	rules := hostRules{own: netip.MustParsePrefix("10.64.0.0/24"), own6: netip.MustParsePrefix("fd00:64::/64"),
		cell: netip.MustParsePrefix("10.64.0.0/10"), key: wireguard.Key{9}}
	host := func(name string, number, key byte) Host {
		return Host{Name: name, WireGuardKey: wireguard.Key{key}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, number})},
			PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64, number, 0}), 24)}
	}
	dual := host("dual", 3, 3)
	dual.PodCIDR6 = netip.MustParsePrefix("fd00:64:3::/64")
	lost := host("lost", 6, 6)
	lost.Addresses = []netip.Addr{netip.MustParseAddr("203.0.113.6")}
	greedy := host("greedy", 7, 7)
	greedy.Addresses = append(greedy.Addresses, netip.MustParseAddr("10.64.1.9"))
	if r := planHosts([]Host{greedy}, rules, reach)[0]; r.Path != PathUnreachable || !strings.Contains(r.Problem, "range of pods") {
		t.Errorf("a host with the address of another's pod is reached by %+v", r)
	}
	hosts := byFamily([]Host{
		host("near", 1, 1), host("silent", 2, 0), dual, host("thief", 4, 1), host("twin", 5, 9), lost,
	}, true)
	want := []string{
		"near wireguard 192.0.2.1 shoal-wg 1270", "silent: has told no key", "dual wireguard 192.0.2.3 shoal-wg 1270",
		"dual: IPv6 in WireGuard needs 1340", "thief: key of host near", "twin: key of this host", "lost: no route",
	}
	for i, r := range planHosts(hosts, rules, reach) {
		if name, problem, ok := strings.Cut(want[i], ": "); ok {
			if r.Host != name || r.Path != PathUnreachable || !r.noKey || !strings.Contains(r.Problem, problem) {
				t.Errorf("got %+v, want %s", r, want[i])
			}
			continue
		}
		if text := fmt.Sprintf("%s %s %s %s %d", r.Host, r.Path, r.Via, r.Device, r.MTU); text != want[i] || r.noKey {
			t.Errorf("got %s (%s), want %s", text, r.Problem, want[i])
		}
	}
}

// manyHosts are half on the lab's link and half behind its other machine.
func manyHosts(n int) []Host {
	out := make([]Host, n)
	for i := range out {
		addr := netip.AddrFrom4([4]byte{198, 18, byte(8 + i/250), byte(1 + i%250)})
		if i%2 == 0 {
			addr = netip.AddrFrom4([4]byte{198, 19, byte(8 + i/250), byte(1 + i%250)})
		}
		out[i] = Host{Name: fmt.Sprint("host-", i), Addresses: []netip.Addr{addr},
			PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(65 + i/256), byte(i), 0}), 24)}
	}
	return out
}

// wideLab has a link that holds half of manyHosts.
func wideLab(t testing.TB) *lab {
	l := newLab(t)
	l.must(l.host.do(func() error { return widen("198.18.0.1/15", "198.19.0.0/16", labOutsideIP) }))
	return l
}

func TestManyHosts(t *testing.T) {
	l := wideLab(t)
	d := l.open()
	hosts := manyHosts(5000)
	check := func(d *Datapath, want map[Path]int) {
		t.Helper()
		got := map[Path]int{}
		for _, r := range d.Hosts() {
			got[r.Path]++
		}
		have, err := d.hostRoutes()
		l.must(err)
		if fmt.Sprint(got) != fmt.Sprint(want) || len(have) != want[PathDirect]+want[PathVXLAN] {
			t.Errorf("ways %v, %d routes; want %v", got, len(have), want)
		}
		ranges := 0
		l.must(readMap(d.maps[bpf.DatapathMapRanges], func(bpf.DatapathRangeKey, bpf.DatapathRange) { ranges++ }))
		if ranges != want[PathDirect]+2*want[PathVXLAN] { // those behind the tunnel, and their pods
			t.Errorf("%d ranges in the kernel; want %v", ranges, want)
		}
	}
	l.must(d.SetHosts(hosts))
	check(d, map[Path]int{PathDirect: 2500, PathVXLAN: 2500})
	l.must(d.SetHosts(hosts[1:]))
	check(d, map[Path]int{PathDirect: 2500, PathVXLAN: 2499})
	l.must(d.Close())
	d = l.openUntilEnd()
	l.must(d.SetHosts(hosts[:4000]))
	check(d, map[Path]int{PathDirect: 2000, PathVXLAN: 2000})
	_, ip := l.pod(d, "pod")
	if !ip.IsValid() {
		t.Error("no pod")
	}
	l.must(d.Detach(context.Background(), "pod"))
}

func BenchmarkSetHosts(b *testing.B) {
	hosts := manyHosts(5000)
	b.Run("5000 at once", func(b *testing.B) {
		l := wideLab(b)
		d := l.openUntilEnd()
		for b.Loop() {
			l.must(d.SetHosts(hosts))
			b.StopTimer()
			l.must(d.SetHosts(nil))
			b.StartTimer()
		}
	})
	b.Run("one of 5000", func(b *testing.B) {
		l := wideLab(b)
		d := l.openUntilEnd()
		l.must(d.SetHosts(hosts))
		i := 0
		for b.Loop() {
			l.must(d.SetHosts(hosts[i%2:]))
			i++
		}
	})
}

// What is for pods of a host without a way is refused, unless others have a part of its
// range: these go first, whatever the order.
func TestPlanOwnedRanges(t *testing.T) {
	reach := func(a netip.Addr) (reached, string) {
		if a.As4()[3] == 9 {
			return reached{}, "this host has no route"
		}
		return reached{direct: true, device: "eth0", mtu: 1500}, ""
	}
	rules := hostRules{own: netip.MustParsePrefix("10.64.0.0/24"), services: netip.MustParsePrefix("10.0.0.0/16")}
	host := func(cidr string, addrs ...string) Host {
		h := Host{Name: cidr}
		h.PodCIDR, _ = netip.ParsePrefix(cidr)
		for _, a := range addrs {
			h.Addresses = append(h.Addresses, netip.MustParseAddr(a))
		}
		h.Name += fmt.Sprint(addrs)
		return h
	}
	hosts := []Host{
		host("10.64.1.0/24"), host("10.64.1.0/24", "192.0.2.1"), host("10.64.2.0/23"), host("10.64.2.0/24"),
		host("10.64.4.0/24", "192.0.2.9"), host("10.64.0.0/16"), host("10.0.7.0/24"), host("10.64.5.0/24", "10.64.5.1"), host(""),
	}
	want := []bool{false, true, true, false, true, false, false, false, false}
	for i, r := range planHosts(hosts, rules, reach) {
		if r.owned != want[i] {
			t.Errorf("%s owns its range: %t, want %t", r.Host, r.owned, want[i])
		}
	}
}
