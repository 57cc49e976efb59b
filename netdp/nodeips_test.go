package netdp

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

// What a router tells a host while the daemon runs is its address as any other, and
// what goes is not: for callers from outside, other hosts, its own programs and its pods.
func TestIPv6AddressThatComesLate(t *testing.T) {
	c := newDualCell(t, "near1", "near2", "far3")
	h := c.hosts[0]
	late := h.ip6
	h.loseIPv6()
	c.meet()
	pods := c.servers6()
	c.serveTCP(c.outside, "[::]:80", "world")
	six := Service{Key: "six", Proto: TCP, Frontends: []Frontend{{Addr: NodePortIPv6, Port: 30080}}}
	for _, p := range pods {
		six.Backends = append(six.Backends, Backend{Addr: netip.AddrPortFrom(p.ip, 80)})
	}
	c.set(six)
	pathTo := func(from *cellHost, to string) (path Path) {
		for _, r := range from.dp.Hosts() {
			if r.Host == to && r.PodCIDR.Addr().Is6() {
				path = r.Path
			}
		}
		return path
	}
	expect := func(when, source string, path Path) {
		t.Helper()
		for _, p := range pods {
			got, err := c.askFrom(h, h.host, "tcp6", at6(p.ip, 80))
			if want := p.host.name + " " + source + " hello"; err != nil || got != want {
				t.Errorf("%s, to the pod of %s: %q, %v; want %q", when, p.host.name, got, err, want)
			}
			if _, err := c.askFrom(p.host, p.ns, "tcp6", at6(pods[0].ip, 80)); err != nil {
				t.Errorf("%s, from the pod of %s to the host's: %v", when, p.host.name, err)
			}
		}
		if there, back := pathTo(h, "near2"), pathTo(c.hosts[1], "near1"); there != path || back != path {
			t.Errorf("%s, near2 is reached %s and reaches it %s, want %s", when, there, back, path)
		}
	}
	var old net.Conn
	c.in(h, func() {
		var err error
		old, err = dial(h.host, "tcp6", at6(pods[2].ip, 80))
		c.must(err)
	})
	defer old.Close()
	standIn := h.opts.PodCIDR6.Addr().String()
	expect("before", standIn, PathVXLAN)

	c.raise(h.host, cellLink, late.String()+"/64")
	h.ip6, h.opts.NodeIPs = late, []netip.Addr{h.ip, late}
	c.must(h.dp.SetNodeIPs(h.opts.NodeIPs))
	c.meet()
	expect("with the address", late.String(), PathDirect)
	if _, err := call(old, "old"); err != nil {
		t.Errorf("a connection from before the address came: %v", err)
	}
	answered := map[string]bool{}
	for range 60 { // one of three is missed 60 times once in 10^10 runs
		got, err := c.askFrom(nil, c.outside, "tcp6", at6(late, 30080))
		if err != nil {
			t.Fatalf("a node port at the address, after %v: %v", answered, err)
		}
		name, _, _ := strings.Cut(got, " ")
		if answered[name] = true; len(answered) == len(pods) {
			break
		}
	}
	if len(answered) != len(pods) {
		t.Errorf("a node port at the address leads to %v only", answered)
	}
	got, err := c.askFrom(h, pods[0].ns, "tcp6", "["+cellOutside6+"]:80")
	if want := "world " + late.String() + " hello"; err != nil || got != want {
		t.Errorf("a pod's call to the world: %q, %v; want %q", got, err, want)
	}

	h.dropIPv6()
	c.must(h.dp.SetNodeIPs(h.opts.NodeIPs))
	c.meet()
	expect("after it", standIn, PathVXLAN)
	if err := h.dp.SetNodeIPs([]netip.Addr{netip.MustParseAddr("198.18.0.77")}); err == nil {
		t.Error("another address of IPv4 is taken")
	}
}
