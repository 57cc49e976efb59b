package netdp

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"shoal/bpf"
	"shoal/netdp/wireguard"
)

// Between the pods of two hosts packets go past the stacks of both.
func TestPodsOfOtherHosts(t *testing.T) {
	l := wideLab(t)
	d := l.openUntilEnd()
	_, one := l.pod(d, "one")
	_, two := l.pod(d, "two")
	const near, far = "198.18.8.1", "198.19.8.1"
	l.must(d.SetHosts([]Host{
		{Name: "near", Addresses: []netip.Addr{netip.MustParseAddr(near)}, PodCIDR: netip.MustParsePrefix("10.65.1.0/24")},
		{Name: "far", Addresses: []netip.Addr{netip.MustParseAddr(far)}, PodCIDR: netip.MustParsePrefix("10.65.2.0/24")},
	}))
	uplink, err := d.nl.LinkByName(labUplink)
	l.must(err)
	link := l.linkIndex(d, hostLinkName("one"))
	packet := func(src, dst, payload string) []byte {
		return frame{src: src + ":1000", dst: dst + ":2000", proto: UDP, payload: payload}.bytes()
	}
	sent := func(dst, payload string) []byte { return packet(one.String(), dst, payload) }
	// arrived is addressed to the uplink's hardware address, as the wire has it.
	arrived := func(src, dst string, port uint16) []byte {
		b := packet(src, dst, "x")
		copy(b, uplink.Attrs().HardwareAddr)
		b[ethLen+ipLen+2], b[ethLen+ipLen+3] = byte(port>>8), byte(port)
		return b
	}
	stray := arrived(near, one.String(), 80)
	stray[5]++
	whole := strings.Repeat("x", 1500-28)
	tunnelled := strings.Repeat("x", 1500-28-vxlanOverhead)
	for _, c := range []struct {
		name    string
		program string
		in      []byte
		verdict uint32
		tunnel  bool
	}{
		{"to a pod on the link", bpf.DatapathProgPodEgress, sent("10.65.1.2", whole), verdictRedirect, false},
		{"too large for the link", bpf.DatapathProgPodEgress, sent("10.65.1.2", whole+"x"), verdictPass, false},
		{"to a pod behind the tunnel", bpf.DatapathProgPodEgress, sent("10.65.2.2", tunnelled), verdictRedirect, true},
		{"too large for the tunnel", bpf.DatapathProgPodEgress, sent("10.65.2.2", tunnelled+"x"), verdictPass, false},
		{"to a host behind the tunnel", bpf.DatapathProgPodEgress, sent(far, "x"), verdictRedirect, true},
		{"too large, to a host behind the tunnel", bpf.DatapathProgPodEgress, sent(far, whole), verdictRedirect, true},
		{"to a host on the link", bpf.DatapathProgPodEgress, sent(near, "x"), verdictPass, false},
		{"to nobody of the cell", bpf.DatapathProgPodEgress, sent("203.0.113.9", "x"), verdictPass, false},
		{"from the link", bpf.DatapathProgUplinkIngress, arrived(near, one.String(), 80), verdictRedirect, false},
		{"from the link, for another machine", bpf.DatapathProgUplinkIngress, stray, verdictPass, false},
		{"from the link, with a pod's address", bpf.DatapathProgUplinkIngress, arrived(two.String(), one.String(), 80), verdictDrop, false},
		{"from the link, with the host's address", bpf.DatapathProgUplinkIngress, arrived(labHostIP, one.String(), 80), verdictDrop, false},
		{"the tunnel's own", bpf.DatapathProgUplinkIngress, arrived(near, labHostIP, 8472), verdictPass, false},
	} {
		from := link
		if c.program == bpf.DatapathProgUplinkIngress {
			from = uplink.Attrs().Index
		}
		verdict, out := l.runProgram(d, c.program, from, c.in)
		if verdict != c.verdict {
			t.Errorf("%s: verdict %d, want %d", c.name, verdict, c.verdict)
		}
		if c.tunnel && len(out) > len(c.in) {
			if what := putAmiss(c.in, out, labHostIP, far, 0); what != "" {
				t.Errorf("%s: %s", c.name, what)
			}
			continue
		}
		if got := bytes.HasPrefix(out, []byte{0x02, 0x73, 0x68, 0x6f, 0x61, 0x04}); got != c.tunnel {
			t.Errorf("%s: for the tunnel: %v", c.name, got)
		}
		if !slices.Equal(out[ethLen:], c.in[ethLen:]) {
			t.Errorf("%s: the packet was changed", c.name)
		}
	}
}

// What fills the device that encrypts goes past the stack too: packets have no
// hardware header there.
func TestPodsOfOtherHostsEncrypted(t *testing.T) {
	l := wideLab(t)
	key, err := wireguard.NewPrivateKey()
	l.must(err)
	other, err := wireguard.NewPrivateKey()
	l.must(err)
	l.opts.WireGuardKey, l.opts.userWireGuard = key, true
	d := l.openUntilEnd()
	_, one := l.pod(d, "one")
	l.must(d.SetHosts([]Host{{Name: "near", Addresses: []netip.Addr{netip.MustParseAddr("198.18.8.1")},
		PodCIDR: netip.MustParsePrefix("10.65.1.0/24"), WireGuardKey: other.Public()}}))
	link := l.linkIndex(d, hostLinkName("one"))
	fits := 1500 - 28 - wireguard.Overhead
	for size, want := range map[int]uint32{1: verdictRedirect, fits: verdictRedirect, fits + 1: verdictPass} {
		in := frame{src: one.String() + ":1000", dst: "10.65.1.2:2000", proto: UDP, payload: strings.Repeat("x", size)}.bytes()
		if verdict, _ := l.runProgram(d, bpf.DatapathProgPodEgress, link, in); verdict != want {
			t.Errorf("%d bytes: verdict %d, want %d", size, verdict, want)
		}
	}
}
