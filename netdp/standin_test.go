package netdp

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
	"shoal/netdp/policy/tables"
)

// loseIPv6 leaves a host no address of it but its link's, and begins anew.
func (h *cellHost) loseIPv6() {
	h.t.Helper()
	h.dropIPv6()
	h.must(h.dp.Remove())
	h.dp = h.open()
}

func (h *cellHost) dropIPv6() {
	h.t.Helper()
	h.must(h.host.do(func() error {
		link, err := netlink.LinkByName(cellLink)
		if err != nil {
			return err
		}
		return netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(h.ip6, 64))})
	}))
	h.opts.NodeIPs, h.ip6 = h.opts.NodeIPs[:1], netip.Addr{}
}

// A host without an IPv6 address calls pods of IPv6, its own and others', and services,
// and they see it at the first address of its range.
func TestHostWithoutIPv6(t *testing.T) {
	for _, c := range []struct {
		name    string
		encrypt bool
	}{{"plain", false}, {"encrypted", true}} {
		t.Run(c.name, func(t *testing.T) { testHostWithoutIPv6(t, c.encrypt) })
	}
}

func testHostWithoutIPv6(t *testing.T, encrypt bool) {
	c := newDualCell(t, "near1", "near2", "far3")
	bare := []*cellHost{c.hosts[0], c.hosts[2]}
	for _, h := range bare {
		h.loseIPv6()
	}
	if encrypt {
		c.encrypt(c.hosts...)
	}
	c.meet()
	pods := c.servers6()
	six := Service{Key: "six", Proto: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr("fd00:10::10"), Port: 80}, {Addr: NodePortIPv6, Port: 30080}}}
	for _, p := range pods {
		six.Backends = append(six.Backends, Backend{Addr: netip.AddrPortFrom(p.ip, 80)})
	}
	c.set(six)
	for _, from := range c.hosts {
		seen := from.ip6
		if slices.Contains(bare, from) {
			seen = from.opts.PodCIDR6.Addr()
		}
		for _, to := range pods {
			for _, network := range []string{"tcp6", "udp6"} {
				got, err := c.askFrom(from, from.host, network, at6(to.ip, 80))
				if want := to.host.name + " " + seen.String() + " hello"; err != nil || got != want {
					t.Errorf("%s from host %s to the pod of %s: %q, %v; want %q", network, from.name, to.host.name, got, err, want)
				}
			}
		}
		for _, service := range []string{"[fd00:10::10]:80", "[::1]:30080", at6(seen, 30080)} {
			for range 20 { // one of three
				if _, err := c.askFrom(from, from.host, "tcp6", service); err != nil {
					t.Errorf("from host %s to service %s: %v", from.name, service, err)
					break
				}
			}
		}
	}
	for _, h := range bare { // pods call their host by it
		c.serveTCP(h.host, "[::]:6443", h.name)
		for _, p := range pods {
			got, err := c.askFrom(p.host, p.ns, "tcp6", at6(h.opts.PodCIDR6.Addr(), 6443))
			if want := h.name + " " + p.ip.String() + " hello"; err != nil || got != want {
				t.Errorf("from the pod of %s to host %s: %q, %v; want %q", p.host.name, h.name, got, err, want)
			}
		}
	}
}

// An isolated pod answers its own host, and another one as the range that this is in.
func TestHostWithoutIPv6AndPolicy(t *testing.T) {
	c := newDualCell(t, "near1", "far2")
	first, other := c.hosts[0], c.hosts[1]
	first.loseIPv6()
	c.meet()
	pods := c.servers6()
	rules := &tables.Rules{Blocks: map[tables.BlockKey]tables.ID{}}
	for _, p := range pods {
		c.must(p.host.dp.SetPolicy(tables.Change{Complete: true, Rules: rules,
			Subjects: map[netip.Addr]tables.Subject{p.ip: {Ingress: 1001, Egress: 1001}}}))
	}
	if _, err := c.askFrom(first, first.host, "tcp6", at6(pods[0].ip, 80)); err != nil {
		t.Errorf("to its own isolated pod: %v", err)
	}
	c.serveTCP(first.host, "[::]:6443", first.name)
	if _, err := c.askFrom(first, pods[0].ns, "tcp6", at6(first.opts.PodCIDR6.Addr(), 6443)); err != nil {
		t.Errorf("from its own isolated pod: %v", err)
	}
	if _, err := c.askFrom(first, first.host, "tcp6", at6(pods[1].ip, 80)); err == nil {
		t.Error("another host's isolated pod answers")
	}
	rules.Blocks[tables.BlockKey{Set: 1001, Range: first.opts.PodCIDR6}] = tables.AllProfile
	c.must(other.dp.SetPolicy(tables.Change{Rules: rules}))
	if _, err := c.askFrom(first, first.host, "tcp6", at6(pods[1].ip, 80)); err != nil {
		t.Errorf("to another host's pod that allows the range: %v", err)
	}
}

// standInOf reads what loopback has of the host's range.
func (h *cellHost) standInOf() (has bool) {
	h.t.Helper()
	h.must(h.host.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(lo, unix.AF_INET6)
		has = slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(h.opts.PodCIDR6.Addr().AsSlice()) })
		return err
	}))
	return has
}

// The address outlives the daemon and the day on which the host gets one of its own;
// it goes with the datapath, and where the range is another.
func TestStandInLife(t *testing.T) {
	c := newDualCell(t, "near1", "far2")
	h := c.hosts[0]
	if h.standInOf() {
		t.Fatal("a host that has an address stands in for one")
	}
	own := h.ip6
	h.loseIPv6()
	c.meet()
	pods := c.servers6()
	var conn net.Conn
	c.in(h, func() {
		var err error
		conn, err = dial(h.host, "tcp6", at6(pods[1].ip, 80))
		c.must(err)
	})
	defer conn.Close()
	c.raise(h.host, cellLink, own.String()+"/64")
	h.opts.NodeIPs, h.ip6 = append(h.opts.NodeIPs, own), own
	h.restart()
	c.meet()
	if _, err := call(conn, "old"); err != nil {
		t.Errorf("an open connection after the host got an address: %v", err)
	}
	got, err := c.askFrom(h, h.host, "tcp6", at6(pods[1].ip, 80))
	if want := "far2 " + own.String() + " hello"; err != nil || got != want {
		t.Errorf("a new connection: %q, %v; want %q", got, err, want)
	}
	h.must(h.dp.Remove())
	if h.standInOf() {
		t.Error("the address is left after Remove")
	}
	h.opts.NodeIPs = h.opts.NodeIPs[:1]
	h.dp = h.open()
	before := h.opts.PodCIDR6
	h.opts.PodCIDR6 = netip.MustParsePrefix("fd00:64:9::/64")
	h.restart()
	if !h.standInOf() {
		t.Error("there is no address of the new range")
	}
	h.opts.PodCIDR6 = before
	if h.standInOf() {
		t.Error("the address of the range before is left")
	}
}

// Nobody outside sees the address: a pod's calls leave with one of the uplink's, or none.
func TestStandInIsNotForOutside(t *testing.T) {
	l := dualLab(t)
	l.opts.NodeIPs = l.opts.NodeIPs[:1]
	l.must(l.host.do(func() error {
		link, err := netlink.LinkByName(labUplink)
		return errors.Join(err, netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(labHostIP6 + "/64"))}))
	}))
	d := l.openUntilEnd()
	l.must(d.SetHosts(nil))
	_, m, err := d.outsideAddresses(labUplink)
	if l.must(err); m.Ipv6 != ([4]uint32{}) {
		t.Errorf("pods leave as %v", addrFromWire(m.Ipv6))
	}
	_, ip := l.pod6(d, "server")
	standIn := d.opts.PodCIDR6.Addr().String()
	f := frame{src: "[" + standIn + "]:5000", dst: at6(ip, 80), proto: UDP}
	if verdict, _ := l.runProgram(d, bpf.DatapathProgUplinkIngress, l.linkIndex(d, labUplink), f.bytes()); verdict != verdictDrop {
		t.Errorf("what comes from outside with the address: verdict %d", verdict)
	}
}

// No pod ever gets it.
func TestStandInIsNoPods(t *testing.T) {
	p := netip.MustParsePrefix("fd00:64:7::/64")
	a := newAddresses(netip.MustParsePrefix("10.64.7.0/24"))
	for range a.count {
		addr, err := a.alloc(time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if a.ipv6(addr, p) == p.Addr() {
			t.Fatalf("%s is handed out", p.Addr())
		}
	}
}
