package netdp

import (
	"net/netip"
	"testing"

	"shoal/bpf"
)

// routedPod is a pod of a host as another driver makes it, without a policy, a
// program or a number of ours. It answers on port 80 with its name.
func (c *cell) routedPod(h *cellHost, last byte) (RoutedPod, namespace) {
	c.t.Helper()
	a4 := h.opts.PodCIDR.Addr().As4()
	a4[3] = last
	addr := netip.AddrFrom4(a4)
	// Such drivers switch forwarding on for the host as a whole.
	c.must(h.host.do(func() error { return writeSysctl("1", "net/ipv4/ip_forward") }))
	ns := h.plainPod(h.host, addr, fallbackMTU-vxlanOverhead)
	c.serveTCP(ns, ":80", "routed")
	c.serveUDP(ns, ":80", "routed")
	return RoutedPod{UID: "routed", NetNS: ns.file.Name(), Addresses: []netip.Addr{addr}}, ns
}

// A pod that another driver has given its network is called and calls like any
// other: by its address, by services, by node ports of its own host and of others.
func TestRoutedPod(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.meet()
	near, far := c.hosts[0], c.hosts[2]
	pod, ns := c.routedPod(near, 77)
	addr := pod.Addresses[0].String()
	c.must(near.dp.SetRouted(pod.UID, pod.NetNS, pod.Addresses))
	for _, proto := range []Proto{TCP, UDP} {
		c.set(Service{Key: "web/" + proto.String(), Proto: proto,
			Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}},
			Backends:  []Backend{{Addr: netip.AddrPortFrom(pod.Addresses[0], 80)}}})
	}
	servers := c.servers()
	check := func(when string) {
		t.Helper()
		for _, network := range []string{"tcp4", "udp4"} {
			for _, call := range []struct {
				what string
				from *cellHost
				ns   namespace
				to   string
				want string
			}{
				{"itself by the service", near, ns, "10.0.0.10:80", "routed " + addr + " hello"},
				{"its host by the service", near, near.host, "10.0.0.10:80", "routed " + plainGateway + " hello"}, // the link has it
				{"a pod of its host by the service", near, servers[0].ns, "10.0.0.10:80", "routed " + servers[0].ip.String() + " hello"},
				{"a pod of another host", c.hosts[1], servers[1].ns, addr + ":80", "routed " + servers[1].ip.String() + " hello"},
				{"a pod behind the tunnel", far, servers[2].ns, addr + ":80", "routed " + servers[2].ip.String() + " hello"},
				{"a pod behind the tunnel by the service", far, servers[2].ns, "10.0.0.10:80", "routed " + servers[2].ip.String() + " hello"},
				{"outside by its own host", nil, c.outside, near.ip.String() + ":30080", "routed " + cellOutside + " hello"},
				{"outside by another host", nil, c.outside, c.hosts[1].ip.String() + ":30080", "routed " + c.hosts[1].ip.String() + " hello"},
				{"outside by a host behind the tunnel", nil, c.outside, far.ip.String() + ":30080", "routed " + far.ip.String() + " hello"},
				{"and calls a pod of its host", near, ns, servers[0].ip.String() + ":80", "near1 " + addr + " hello"},
				{"and calls a pod of another host", near, ns, servers[1].ip.String() + ":80", "near2 " + addr + " hello"},
				{"and calls a pod behind the tunnel", near, ns, servers[2].ip.String() + ":80", "far3 " + addr + " hello"},
			} {
				if got, err := c.askFrom(call.from, call.ns, network, call.to); err != nil || got != call.want {
					t.Errorf("%s, %s, %s: %q, %v; want %q", when, network, call.what, got, err, call.want)
				}
			}
		}
	}
	check("new")
	near.opts.RoutedPods = []RoutedPod{pod}
	near.restart()
	check("adopted")
}

// The host knows such a pod as its own, for source ranges and its DNS server, as
// long as it is there.
func TestRoutedPodKnown(t *testing.T) {
	c := newCell(t, "near1")
	h := c.hosts[0]
	pod, _ := c.routedPod(h, 77)
	elsewhere := RoutedPod{UID: "elsewhere", NetNS: pod.NetNS, Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")}}
	known := func(p RoutedPod, want bool) {
		t.Helper()
		var value uint32
		for _, a := range p.Addresses {
			if got := h.dp.maps[bpf.DatapathMapRoutedPods].Lookup(wireAddr(a), &value) == nil; got != want {
				t.Errorf("%s in the kernel: %v", a, got)
			}
		}
		ns, err := openNamespace(p.NetNS)
		c.must(err)
		defer ns.close()
		cookie, err := ns.cookie()
		c.must(err)
		var caller bpf.DatapathCaller
		if got := h.dp.maps[bpf.DatapathMapCallers].Lookup(cookie, &caller) == nil; got != want {
			t.Errorf("%s as a caller: %v", p.UID, got)
		}
		if got := h.dp.IsLocal(p.Addresses[0]); got != (want || h.opts.PodCIDR.Contains(p.Addresses[0])) {
			t.Errorf("%s is local: %v", p.UID, got)
		}
	}
	c.must(h.dp.SetRouted(elsewhere.UID, elsewhere.NetNS, elsewhere.Addresses))
	known(elsewhere, true)
	h.opts.RoutedPods = []RoutedPod{elsewhere}
	h.restart()
	known(elsewhere, true)
	c.must(h.dp.DropRouted(elsewhere.UID))
	c.must(h.dp.DropRouted(elsewhere.UID))
	known(elsewhere, false)
	c.must(h.dp.SetRouted(pod.UID, pod.NetNS, pod.Addresses))
	known(pod, true)
	h.opts.RoutedPods = nil // it left while no daemon ran
	h.restart()
	known(pod, false)
	if err := h.dp.SetRouted("gone", "/nowhere", pod.Addresses); err == nil {
		t.Error("a pod without a namespace is taken")
	}
}
