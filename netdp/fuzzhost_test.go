package netdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
	"shoal/netdp/policy/tables"
)

// fuzzHost is a host with pods of which one, closed, is isolated: only friend may
// call it, at TCP 80, UDP 1000 to 1999 and SCTP 80, and it may call only friend, at
// TCP 443. Node ports and external addresses lead to pods of this host and others.
type fuzzHost struct {
	*lab
	d      *Datapath
	pods   map[string][2]netip.Addr // IPv4, IPv6
	owner  map[netip.Addr]string
	hooks  []hook
	uplink [6]byte // hardware address
	counts map[string]uint64
}

// hook is a program at a device, with what passes there.
type hook struct {
	program  string
	ifindex  int
	received int // device that the stack got the packet from, 0: none
	from, to []string
	ports    []int
	tunnel   bool // its packets come in the tunnel
}

const (
	fuzzWorld, fuzzWorld6       = "203.0.113.80", "2001:db8:80::80"
	fuzzClient, fuzzClient6     = "203.0.113.50", "2001:db8:50::1"
	fuzzExternal, fuzzExternal6 = "203.0.113.7", "2001:db8:7::7"
	fuzzNear, fuzzFar           = "198.18.0.9", "198.19.0.9"
)

func newFuzzHost(t testing.TB) *fuzzHost {
	l := dualLab(t)
	l.opts.MaxFlows = 2048
	l.must(l.host.do(func() error { return widen("198.18.0.1/15", "198.19.0.0/16", labOutsideIP) }))
	h := &fuzzHost{lab: l, d: l.openUntilEnd(), pods: map[string][2]netip.Addr{}, owner: map[netip.Addr]string{}}
	l.must(h.d.SetHosts([]Host{
		{Name: "near", Addresses: []netip.Addr{netip.MustParseAddr(fuzzNear), netip.MustParseAddr("2001:db8:18::9")},
			PodCIDR: netip.MustParsePrefix("10.64.8.0/24"), PodCIDR6: netip.MustParsePrefix("fd00:64:8::/64")},
		{Name: "far", Addresses: []netip.Addr{netip.MustParseAddr(fuzzFar)},
			PodCIDR: netip.MustParsePrefix("10.64.9.0/24"), PodCIDR6: netip.MustParsePrefix("fd00:64:9::/64")},
	}))
	for _, name := range []string{"open", "closed", "friend", "stranger"} {
		ns, four := l.pod(h.d, name)
		l.must(ns.do(func() error { // what it says by itself would be counted too
			link, err := netlink.LinkByName(podLinkName)
			if err != nil {
				return err
			}
			return netlink.LinkSetDown(link)
		}))
		h.pods[name] = [2]netip.Addr{four, h.d.pods.byUID[name].record.Address6}
		for _, addr := range h.pods[name] {
			h.owner[addr] = name
		}
	}
	h.setPolicy()
	h.setServices()
	h.setHooks()
	h.counts = l.drops(h.d)
	return h
}

func (h *fuzzHost) setPolicy() {
	h.t.Helper()
	peers := map[netip.Addr]tables.ID{}
	for addr, name := range h.owner {
		peers[addr] = map[string]tables.ID{"open": 98, "closed": 99, "friend": 100, "stranger": 101}[name]
	}
	table := policyTable(h.pods["closed"][0], peers)
	table.Subjects[h.pods["closed"][1]] = table.Subjects[h.pods["closed"][0]]
	table.Rules.Blocks = nil
	h.must(h.d.SetPolicy(table))
}

func (h *fuzzHost) setServices() {
	h.t.Helper()
	for _, proto := range []Proto{TCP, UDP} {
		for family, node := range []netip.Addr{{}, NodePortIPv6} {
			external := netip.MustParseAddr([]string{fuzzExternal, fuzzExternal6}[family])
			for port, backend := range map[uint16]string{
				30080: h.pods["open"][family].String(), 30070: h.pods["closed"][family].String(), 30099: "",
				30090: []string{"10.64.8.7", "fd00:64:8::7"}[family], 30091: []string{"10.64.9.7", "fd00:64:9::7"}[family],
			} {
				s := Service{Key: fmt.Sprint(proto, port, family), Proto: proto,
					Frontends: []Frontend{{Addr: node, Port: port}, {Addr: external, Port: port, Outside: true}}}
				if backend != "" {
					s.Backends = []Backend{{Addr: netip.AddrPortFrom(netip.MustParseAddr(backend), 80)}}
				}
				h.must(h.d.SetService(s))
			}
		}
	}
}

func (h *fuzzHost) setHooks() {
	h.t.Helper()
	both := func(names ...string) (out []string) {
		for _, name := range names {
			for _, addr := range h.pods[name] {
				out = append(out, addr.String())
			}
		}
		return out
	}
	clients := []string{fuzzClient, fuzzClient6, labOutsideIP, labOutsideIP6}
	own := []string{labHostIP, labHostIP6, fuzzExternal, fuzzExternal6}
	worlds := []string{fuzzWorld, fuzzWorld6}
	remote := []string{"10.64.8.7", "fd00:64:8::7", "10.64.9.7", "fd00:64:9::7"}
	join := func(lists ...[]string) (out []string) {
		for _, list := range lists {
			out = append(out, list...)
		}
		return out
	}
	uplink, open := h.linkIndex(h.d, labUplink), h.linkIndex(h.d, hostLinkName("open"))
	service := []int{30080, 30080, 30090, 30091, 30099, 30070, 30082, 80, natPortMin, 12345, natPortMax}
	h.hooks = []hook{
		{bpf.DatapathProgUplinkIngress, uplink, uplink, join(clients, clients, worlds, remote, both("open")), join(own, own, both("open", "closed"), worlds), service, false},
		{bpf.DatapathProgUplinkEgress, uplink, 0, join(both("open", "friend"), []string{labHostIP, labHostIP6}), join(clients, worlds, worlds, remote), []int{443, 80, 53}, false},
		{bpf.DatapathProgUplinkIngress, uplink, uplink, join(clients, remote, both("open", "friend")), join(both("open", "closed"), both("open", "closed"), own), service, true},
		{bpf.DatapathProgPodEgress, open, open, both("open"), []string{"10.64.9.7", "fd00:64:9::7"}, service, false},
		{bpf.DatapathProgOverlayIngress, uplink, uplink, join(clients, remote), join(own, both("open", "closed")), service, false},
		{bpf.DatapathProgGatherIngress, uplink, uplink, join(clients, remote), join(own, both("open", "closed")), service, false},
		{bpf.DatapathProgOverlayEgress, uplink, 0, join(both("open"), clients), join(remote, clients), []int{443, 80}, false},
	}
	for _, name := range []string{"open", "closed", "friend", "stranger"} {
		link := h.linkIndex(h.d, hostLinkName(name))
		ports := []int{80, 80, 81, 443, 999, 1000, 1999, 2000}
		h.hooks = append(h.hooks,
			hook{bpf.DatapathProgPodEgress, link, link, join(both(name), both(name), both(name), both("open")), join(both("closed", "closed", "friend", "stranger"), worlds, remote, own), ports, false},
			hook{bpf.DatapathProgToPod, link, uplink, join(both("friend", "stranger", "open"), clients), both("closed", name), ports, false},
			hook{bpf.DatapathProgPodIngress, link, uplink, join(both("friend", "stranger", "open"), clients), both("closed", name), ports, false},
			hook{bpf.DatapathProgPodIngress, link, 0, []string{labHostIP, labHostIP6}, both(name), ports, false},
		)
	}
	h.must(h.d.host.do(func() error {
		link, err := h.d.nl.LinkByName(labUplink)
		if err == nil {
			copy(h.uplink[:], link.Attrs().HardwareAddr)
		}
		return err
	}))
}

// packet is a valid one for a hook, of one family.
func (h *fuzzHost) packet(m mutator, k hook) []byte {
	for {
		src := netip.MustParseAddr(k.from[m.IntN(len(k.from))])
		dst := netip.MustParseAddr(k.to[m.IntN(len(k.to))])
		if src.Is4() != dst.Is4() || src == dst {
			continue
		}
		sport := 1024 + m.IntN(60000)
		if m.IntN(4) == 0 {
			sport = m.of(80, 443, 8080, 5000)
		}
		b := m.packet(netip.AddrPortFrom(src, uint16(sport)), netip.AddrPortFrom(dst, uint16(k.ports[m.IntN(len(k.ports))])))
		if m.IntN(8) > 0 {
			copy(b, h.uplink[:]) // else it is for another machine
		}
		return b
	}
}

// inTunnel puts a packet into the tunnel of another host; one of eight is spoiled there.
func (h *fuzzHost) inTunnel(m mutator, b []byte) []byte {
	if len(b) < ethLen {
		return b
	}
	from := []string{fuzzFar, fuzzFar, fuzzNear, labOutsideIP}[m.IntN(4)]
	out := inTunnel(from, labHostIP, uint16(32768+m.IntN(28000)), b)
	copy(out, h.uplink[:])
	if m.IntN(8) == 0 {
		out = m.spoil(out)
	}
	return out
}

// give runs a hook's program; ok is false for what the kernel gives to no program
// by itself: Ethernet or IP headers that are cut off.
func (h *fuzzHost) give(k hook, packet []byte) (verdict uint32, out []byte, ok bool) {
	h.t.Helper()
	ctx := skbContext(k.ifindex)
	binary.NativeEndian.PutUint32(ctx[36:], uint32(k.received))
	if k.program == bpf.DatapathProgToPod {
		binary.NativeEndian.PutUint32(ctx[48:], uint32(k.ifindex)) // cb[0]
	}
	opts := &ebpf.RunOptions{Data: packet, DataOut: make([]byte, len(packet)+256), Context: ctx}
	err := h.d.host.do(func() (err error) {
		verdict, err = h.d.progs[k.program].Run(opts)
		return err
	})
	if errors.Is(err, unix.EINVAL) && len(packet) < ethLen+ipv6Len {
		return 0, nil, false
	}
	h.must(err)
	return verdict, opts.DataOut, true
}

// newDrops counts what was dropped since it was called last, by reason.
func (h *fuzzHost) newDrops() map[string]uint64 {
	now, out := h.drops(h.d), map[string]uint64{}
	for reason, n := range now {
		if n != h.counts[reason] {
			out[reason] = n - h.counts[reason]
		}
	}
	h.counts = now
	return out
}

// entries counts what packets made entries of.
func (h *fuzzHost) entries() (n int) {
	h.t.Helper()
	for _, name := range trackingMaps {
		if name != bpf.DatapathMapAffinities { // no service has any
			n += len(h.keys(name))
		}
	}
	return n
}

func (h *fuzzHost) keys(name string) [][]byte {
	h.t.Helper()
	m := h.d.maps[name]
	var out [][]byte
	var prev any
	key := make([]byte, m.KeySize())
	for {
		err := m.NextKey(prev, &key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return out
		}
		h.must(err)
		out = append(out, append([]byte(nil), key...))
		prev = out[len(out)-1]
	}
}

// forget empties the maps that packets make entries in: what is full takes new
// entries without growing.
func (h *fuzzHost) forget() {
	h.t.Helper()
	for _, name := range trackingMaps {
		for _, key := range h.keys(name) {
			h.must(ignoreMissing("delete", h.d.maps[name].Delete(key)))
		}
	}
}
