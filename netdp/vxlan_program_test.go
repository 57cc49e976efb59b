package netdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"shoal/bpf"
)

// inTunnel puts the headers of VXLAN before a frame, as a host's tunnel does.
func inTunnel(from, to string, sport uint16, frame []byte) []byte {
	b := bytes.Repeat([]byte{2}, vxlanOverhead)
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	ip, udp := b[ethLen:ethLen+ipLen], b[ethLen+ipLen:]
	length := len(frame) + vxlanOverhead - ethLen
	copy(ip, []byte{0x45, 0, byte(length >> 8), byte(length), 0, 7, 0, 0, 64, 17, 0, 0})
	copy(ip[12:], netip.MustParseAddr(from).AsSlice())
	copy(ip[16:], netip.MustParseAddr(to).AsSlice())
	fixHeader(ip)
	binary.BigEndian.PutUint16(udp, sport)
	binary.BigEndian.PutUint16(udp[2:], DefaultVXLANPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(length-ipLen))
	copy(udp[6:], []byte{0, 0, 8, 0, 0, 0, 0, 0, DefaultVNI, 0})
	return append(b, frame...)
}

func fixHeader(ip []byte) {
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip))
}

// tunnelLab is a host with pods one and two, and far behind a router.
type tunnelLab struct {
	*lab
	d        *Datapath
	uplink   netlink.Link
	one, two [2]netip.Addr // IPv4, IPv6
}

const (
	farHost  = "198.19.8.1"
	farPod   = "10.65.2.2"
	farPod6  = "fd00:65:2::2"
	nearHost = "198.18.8.1"
)

func newTunnelLab(t *testing.T) *tunnelLab {
	l := &tunnelLab{lab: dualLab(t)}
	l.must(l.host.do(func() error { return widen("198.18.0.1/15", "198.19.0.0/16", labOutsideIP) }))
	l.d = l.openUntilEnd()
	for name, at := range map[string]*[2]netip.Addr{"one": &l.one, "two": &l.two} {
		_, at[0] = l.pod(l.d, name)
		at[1] = l.d.pods.byUID[name].record.Address6
	}
	l.must(l.d.SetHosts([]Host{
		{Name: "near", Addresses: []netip.Addr{netip.MustParseAddr(nearHost)}, PodCIDR: netip.MustParsePrefix("10.65.1.0/24")},
		{Name: "far", Addresses: []netip.Addr{netip.MustParseAddr(farHost)}, PodCIDR: netip.MustParsePrefix("10.65.2.0/24"),
			PodCIDR6: netip.MustParsePrefix("fd00:65:2::/64")},
	}))
	var err error
	l.uplink, err = l.d.nl.LinkByName(labUplink)
	l.must(err)
	return l
}

func datagram(src, dst netip.Addr) frame {
	return frame{src: netip.AddrPortFrom(src, 1000).String(), dst: netip.AddrPortFrom(dst, 2000).String(), proto: UDP, payload: "hello"}
}

// What is for a pod, and plain, is taken out of the tunnel at the uplink; the rest goes
// to the tunnel's device as it came.
func TestDecapsulation(t *testing.T) {
	l := newTunnelLab(t)
	pod, pod6 := l.one[0], l.one[1]
	peer, peer6 := netip.MustParseAddr(farPod), netip.MustParseAddr(farPod6)
	hello := datagram(peer, pod)
	at := func(i int, v ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[i:], v); fixHeader(b[ethLen : ethLen+ipLen]); return b }
	}
	udp := ethLen + ipLen
	tcp := hello
	tcp.proto, tcp.flags = TCP, flagSYN
	large, options, fragment := hello, hello, hello
	large.payload, options.options, fragment.fragment = strings.Repeat("x", 1000), 8, 0x2000
	malformed := hello.bytes()
	malformed[ethLen] = 0x44
	for i, c := range []struct {
		name    string
		inner   []byte
		alter   func([]byte) []byte
		verdict uint32
		taken   bool
	}{
		{"UDP", hello.bytes(), nil, verdictRedirect, true},
		{"TCP", tcp.bytes(), nil, verdictRedirect, true},
		{"an echo", echo(hello, false), nil, verdictRedirect, true},
		{"IPv6", datagram(peer6, pod6).bytes(), nil, verdictRedirect, true},
		{"options inside", options.bytes(), nil, verdictRedirect, true},
		{"a fragment inside", fragment.bytes(), nil, verdictRedirect, true},
		{"from a host on the link", hello.bytes(), at(ethLen+12, netip.MustParseAddr(nearHost).AsSlice()...), verdictRedirect, true},
		{"what may be marked, and is not", hello.bytes(), at(ethLen+1, 2), verdictRedirect, true},
		{"large", large.bytes(), nil, verdictRedirect, true},
		{"from nobody of the cell", hello.bytes(), at(ethLen+12, 198, 19, 8, 2), verdictPass, false},
		{"to the host", datagram(peer, netip.MustParseAddr(labHostIP)).bytes(), nil, verdictPass, false},
		{"to no pod", datagram(peer, netip.MustParseAddr("10.64.7.200")).bytes(), nil, verdictPass, false},
		{"to another address", hello.bytes(), at(ethLen+16, 198, 18, 0, 9), verdictPass, false},
		{"of another network", hello.bytes(), at(udp+14, DefaultVNI+1), verdictPass, false},
		{"with flags of an extension", hello.bytes(), at(udp+8, 0x88), verdictPass, false},
		{"to another port", hello.bytes(), at(udp+3, 1), verdictPass, false},
		{"with a checksum", hello.bytes(), at(udp+6, 1, 1), verdictPass, false},
		{"marked on the way", hello.bytes(), at(ethLen+1, 3), verdictPass, false},
		{"a fragment", hello.bytes(), at(ethLen+6, 0x20), verdictPass, false},
		{"a wrong header", hello.bytes(), func(b []byte) []byte { b[ethLen+10]++; return b }, verdictPass, false},
		{"longer than it says", hello.bytes(), func(b []byte) []byte { return append(b, 0) }, verdictPass, false},
		{"UDP of another length", hello.bytes(), at(udp+5, 40), verdictPass, false},
		{"ARP inside", slices.Concat(hello.bytes()[:12], []byte{8, 6}, make([]byte, 40)), nil, verdictPass, false},
		{"for another machine", hello.bytes(), func(b []byte) []byte { b[5]++; return b }, verdictPass, false},
		{"malformed inside", malformed, nil, verdictDrop, true},
		{"with another pod's address", datagram(l.two[0], pod).bytes(), nil, verdictDrop, true},
		{"with the host's address", datagram(netip.MustParseAddr(labHostIP), pod).bytes(), nil, verdictDrop, true},
	} {
		in := inTunnel(farHost, labHostIP, uint16(33000+i), c.inner)
		copy(in, l.uplink.Attrs().HardwareAddr)
		if c.alter != nil {
			in = c.alter(in)
		}
		verdict, out := l.runProgram(l.d, bpf.DatapathProgUplinkIngress, l.uplink.Attrs().Index, bytes.Clone(in))
		want := in
		if c.taken {
			want = c.inner
		}
		if verdict != c.verdict || !bytes.Equal(out[12:], want[12:]) {
			t.Errorf("%s: verdict %d, want %d\ngot  %x\nwant %x", c.name, verdict, c.verdict, out, want)
		}
	}
}

// A flow's packets overtake none of it that go a longer way, by the tunnel's device or
// by the gathering link.
func TestDecapsulationKeepsOrder(t *testing.T) {
	const device, gathering, straight = "the device", "the gathering link", "the pod"
	type packet struct {
		payload int
		gso     uint32
		marked  bool // on the way, by a router
	}
	l := newTunnelLab(t)
	way := func(sport int, p packet) string {
		f := datagram(netip.MustParseAddr(farPod), l.one[0])
		f.payload = strings.Repeat("x", p.payload)
		in := inTunnel(farHost, labHostIP, uint16(sport), f.bytes())
		copy(in, l.uplink.Attrs().HardwareAddr)
		if p.marked {
			in[ethLen+1] = 3
			fixHeader(in[ethLen : ethLen+ipLen])
		}
		ctx := skbContext(l.uplink.Attrs().Index)
		binary.NativeEndian.PutUint32(ctx[176:], p.gso) // gso_size
		opts := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256), Context: ctx}
		l.must(l.host.do(func() error {
			_, err := l.d.progs[bpf.DatapathProgUplinkIngress].Run(opts)
			return err
		}))
		sender := append([]byte{2, 0}, netip.MustParseAddr(farHost).AsSlice()...)
		switch {
		case len(opts.DataOut) == len(in):
			return device
		case bytes.Equal(opts.DataOut[6:12], sender):
			return gathering
		case bytes.Equal(opts.DataOut[:6], podMAC):
			return straight
		}
		return fmt.Sprintf("%x", opts.DataOut)
	}
	small, large, merged, marked := packet{payload: 10}, packet{payload: 1200}, packet{payload: 200, gso: 100}, packet{payload: 1200, marked: true}
	for i, c := range []struct {
		name        string
		first, then packet
		way         string
	}{
		{"small ones", small, small, straight},
		{"large after small", small, large, gathering},
		{"small after large", large, small, gathering},
		{"put together of small ones", small, merged, device},
		{"small after these", merged, small, device},
		{"large after these", merged, large, device},
		{"marked", large, marked, device},
		{"large after marked", marked, large, device},
		{"small after marked", marked, small, device},
	} {
		l.until(c.name, func() bool { // on a slow machine the flow may settle between the two
			way(33000+i, c.first)
			return way(33000+i, c.then) == c.way
		})
		l.until(c.name+": the flow is settled", func() bool { return way(33000+i, small) == straight })
	}
	l.must(l.d.removeGather())
	l.until("without the link the device gathers", func() bool {
		return way(34000, large) == device && way(34000, small) == device
	})
}

// Packets of two hosts are told apart where they are put together.
func TestGatheredSender(t *testing.T) {
	l := newTunnelLab(t)
	for _, host := range []string{farHost, nearHost} {
		f := datagram(netip.MustParseAddr(farPod), l.one[0])
		f.payload = strings.Repeat("x", 1200)
		in := inTunnel(host, labHostIP, 33000, f.bytes())
		copy(in, l.uplink.Attrs().HardwareAddr)
		_, out := l.runProgram(l.d, bpf.DatapathProgUplinkIngress, l.uplink.Attrs().Index, in)
		if want := slices.Concat([]byte{2, 0, 0, 0, 0, 0, 2, 0}, netip.MustParseAddr(host).AsSlice(), f.bytes()[12:]); !bytes.Equal(out, want) {
			t.Errorf("from %s: got %x, want %x", host, out, want)
		}
	}
}

// What a pod sends to pods behind the tunnel is put into it at the pod's link.
func TestEncapsulation(t *testing.T) {
	l := newTunnelLab(t)
	pod, pod6 := l.one[0], l.one[1]
	peer, peer6 := netip.MustParseAddr(farPod), netip.MustParseAddr(farPod6)
	client := netip.MustParseAddr("10.65.2.9")
	l.must(l.d.SetService(Service{Key: "web", Proto: TCP, Frontends: []Frontend{{Port: 30080}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(pod, 2000)}}}))
	call := frame{src: netip.AddrPortFrom(client, 1000).String(), dst: labHostIP + ":30080", proto: TCP, flags: flagSYN}
	if verdict, _ := l.runProgram(l.d, bpf.DatapathProgUplinkIngress, l.uplink.Attrs().Index, call.bytes()); verdict != verdictRedirect {
		t.Fatalf("the call of a service: verdict %d", verdict)
	}
	answer := datagram(pod, client)
	answer.src, answer.proto, answer.flags = netip.AddrPortFrom(pod, 2000).String(), TCP, flagACK
	answer.dst = netip.AddrPortFrom(client, 1000).String()
	marked := func(ecn byte, b []byte) []byte {
		if b[ethLen]>>4 == 6 {
			b[ethLen+1] = ecn << 4
		} else {
			b[ethLen+1] = ecn
			fixHeader(b[ethLen : ethLen+ipLen])
		}
		return b
	}
	tcp := datagram(pod, peer)
	tcp.proto, tcp.flags = TCP, flagSYN
	fragment := datagram(pod, peer)
	fragment.fragment = 10
	for _, c := range []struct {
		name string
		in   []byte
		put  bool // else it is the device's
		tos  byte
	}{
		{"UDP", datagram(pod, peer).bytes(), true, 0},
		{"TCP", tcp.bytes(), true, 0},
		{"an echo", echo(datagram(pod, peer), false), true, 0},
		{"IPv6", datagram(pod6, peer6).bytes(), true, 0},
		{"it may be marked", marked(1, tcp.bytes()), true, 1},
		{"it was marked", marked(3, tcp.bytes()), true, 2},
		{"IPv6 that may be marked", marked(2, datagram(pod6, peer6).bytes()), true, 2},
		{"an answer to a call of a service", answer.bytes(), false, 0},
		{"an error", tooLarge(pod.String(), datagram(peer, pod).bytes()), false, 0},
		{"a later fragment of nothing", fragment.bytes(), false, 0},
		{"to the host", datagram(pod, netip.MustParseAddr(farHost)).bytes(), false, 0},
	} {
		verdict, out := l.runProgram(l.d, bpf.DatapathProgPodEgress, l.linkIndex(l.d, hostLinkName("one")), bytes.Clone(c.in))
		if verdict != verdictRedirect {
			t.Errorf("%s: verdict %d", c.name, verdict)
		}
		if !c.put {
			if !bytes.Equal(out[ethLen:], c.in[ethLen:]) {
				t.Errorf("%s: was changed to %x", c.name, out)
			}
			continue
		}
		if what := putAmiss(c.in, out, labHostIP, farHost, c.tos); what != "" {
			t.Errorf("%s: %s\nin  %x\nout %x", c.name, what, c.in, out)
		}
	}
	// Without a route the device says so.
	l.must(l.host.do(func() error {
		routes, err := netlink.RouteGet(netip.MustParseAddr(farHost).AsSlice())
		if err != nil {
			return err
		}
		return netlink.RouteDel(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("198.19.0.0/16")), LinkIndex: routes[0].LinkIndex})
	}))
	l.must(l.host.do(func() error { return unreachableRoute("198.19.0.0/16") }))
	in := datagram(pod, peer).bytes()
	if verdict, out := l.runProgram(l.d, bpf.DatapathProgPodEgress, l.linkIndex(l.d, hostLinkName("one")), in); verdict != verdictRedirect || len(out) != len(in) {
		t.Errorf("without a route: verdict %d, %d bytes", verdict, len(out))
	}
}

// putAmiss says what is wrong with a frame in the tunnel's headers.
func putAmiss(in, out []byte, from, to string, tos byte) string {
	if len(out) != len(in)+vxlanOverhead {
		return fmt.Sprintf("is %d bytes longer", len(out)-len(in))
	}
	ip, udp := out[ethLen:ethLen+ipLen], out[ethLen+ipLen:]
	port := binary.BigEndian.Uint16(udp)
	want := inTunnel(from, to, port, slices.Concat([]byte{2, 's', 'h', 'o', 'a', 4, 2, 's', 'h', 'o', 'a', 3}, in[12:]))
	copy(want[ethLen+4:], ip[4:6]) // its number
	want[ethLen+1] = tos
	fixHeader(want[ethLen : ethLen+ipLen])
	switch {
	case port < 32768 || port > 60999:
		return fmt.Sprintf("is sent from port %d", port)
	case !bytes.Equal(out[ethLen:], want[ethLen:]):
		return fmt.Sprintf("want %x", want)
	}
	return ""
}

// With IPsec policies on the host, and while the cell encrypts, the stack sees both ways.
func TestTunnelByStack(t *testing.T) {
	l := newTunnelLab(t)
	direct := func() (in, out bool) {
		packet := inTunnel(farHost, labHostIP, 33000, datagram(netip.MustParseAddr(farPod), l.one[0]).bytes())
		copy(packet, l.uplink.Attrs().HardwareAddr)
		_, taken := l.runProgram(l.d, bpf.DatapathProgUplinkIngress, l.uplink.Attrs().Index, packet)
		sent := datagram(l.one[0], netip.MustParseAddr(farPod)).bytes()
		_, put := l.runProgram(l.d, bpf.DatapathProgPodEgress, l.linkIndex(l.d, hostLinkName("one")), sent)
		return len(taken) < len(packet), len(put) > len(sent)
	}
	want := func(when string, want bool) {
		t.Helper()
		if in, out := direct(); in != want || out != want {
			t.Errorf("%s: past the stack in %t, out %t", when, in, out)
		}
	}
	policy := &netlink.XfrmPolicy{Dir: netlink.XFRM_DIR_OUT, Src: ipNet(netip.MustParsePrefix("198.18.0.0/15")),
		Dst: ipNet(netip.MustParsePrefix("203.0.113.0/24")), Action: netlink.XFRM_POLICY_BLOCK}
	want("at first", true)
	l.must(l.host.do(func() error { return netlink.XfrmPolicyAdd(policy) }))
	l.d.Repair()
	want("with a policy", false)
	l.must(l.host.do(func() error { return netlink.XfrmPolicyDel(policy) }))
	l.d.Repair()
	want("without it", true)
	l.must(l.d.encrypted.Set(uint32(1)))
	packet := inTunnel(farHost, labHostIP, 33000, datagram(netip.MustParseAddr(farPod), l.one[0]).bytes())
	copy(packet, l.uplink.Attrs().HardwareAddr)
	if _, out := l.runProgram(l.d, bpf.DatapathProgUplinkIngress, l.uplink.Attrs().Index, packet); len(out) != len(packet) {
		t.Error("while the cell encrypts, it is taken out")
	}
}
