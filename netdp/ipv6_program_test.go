package netdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

const (
	labHostIP6    = "2001:db8:18::1"
	labOutsideIP6 = "2001:db8:18::2"
	labPods6      = "fd00:64:7::/64"

	ethICMPv6 = ethLen + ipv6Len
)

// dualLab is a lab whose host, pods and other machine have IPv6 beside IPv4.
func dualLab(t testing.TB) *lab {
	l := newLab(t)
	for ns, addr := range map[namespace]string{l.host: labHostIP6, l.outside: labOutsideIP6} {
		l.must(ns.do(func() error {
			link, err := netlink.LinkByName(labUplink)
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(addr + "/64")
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD
			return netlink.AddrAdd(link, a)
		}))
	}
	l.must(l.outside.do(func() error {
		return netlink.RouteAdd(&netlink.Route{Gw: netip.MustParseAddr(labHostIP6).AsSlice()})
	}))
	l.opts.NodeIPs = append(l.opts.NodeIPs, netip.MustParseAddr(labHostIP6))
	l.opts.PodCIDR6 = netip.MustParsePrefix(labPods6)
	l.opts.CellPodCIDR6 = netip.MustParsePrefix("fd00:64::/32")
	return l
}

// pod6 attaches a pod and returns its namespace and IPv6 address.
func (l *lab) pod6(d *Datapath, uid string) (namespace, netip.Addr) {
	l.t.Helper()
	ns, _ := l.pod(d, uid)
	addr := d.pods.byUID[uid].record.Address6
	if !addr.IsValid() {
		l.t.Fatalf("pod %s has no IPv6 address", uid)
	}
	return ns, addr
}

func node6(port int) string { return fmt.Sprintf("[%s]:%d", labHostIP6, port) }

func TestUplinkProgramsIPv6(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	_, podIP := l.pod6(d, "server")
	backend := Backend{Addr: netip.AddrPortFrom(podIP, 8080)}
	for _, s := range []Service{
		{Key: "tcp", Proto: TCP, Frontends: []Frontend{
			{Addr: netip.MustParseAddr("fd00:10::10"), Port: 80},
			{Addr: netip.MustParseAddr("2001:db8:7::7"), Port: 80, Outside: true}, {Addr: NodePortIPv6, Port: 30080},
		}, Backends: []Backend{backend}},
		{Key: "udp", Proto: UDP, Frontends: []Frontend{{Addr: NodePortIPv6, Port: 30080}}, Backends: []Backend{backend}},
		{Key: "host", Proto: TCP, Frontends: []Frontend{{Addr: NodePortIPv6, Port: 30443}}, Backends: []Backend{
			{Addr: netip.MustParseAddrPort(node6(6443))}}},
		{Key: "IPv4 only", Proto: TCP, Frontends: []Frontend{{Port: 30090}}, Backends: []Backend{{Addr: netip.MustParseAddrPort("10.64.7.9:80")}}},
	} {
		l.must(d.SetService(s))
	}
	const client = "[" + labOutsideIP6 + "]:40000"
	toPod := fmt.Sprintf("%s > [%s]:8080", client, podIP)
	uplink := l.linkIndex(d, labUplink)
	for _, c := range []struct {
		name    string
		in      frame
		verdict uint32
		out     string // empty: unchanged
		reply   string // what the backend's answer becomes
	}{
		{"TCP to a node port", frame{src: client, dst: node6(30080), proto: TCP, flags: flagSYN},
			verdictRedirect, "TCP " + toPod, node6(30080)},
		{"UDP to a node port", frame{src: client, dst: node6(30080), proto: UDP, payload: "odd"},
			verdictRedirect, "UDP " + toPod, node6(30080)},
		{"extension headers", frame{src: client, dst: node6(30080), proto: TCP, flags: flagSYN, options: 16},
			verdictRedirect, "TCP " + toPod, node6(30080)},
		{"TCP to an external address", frame{src: client, dst: "[2001:db8:7::7]:80", proto: TCP, flags: flagSYN},
			verdictRedirect, "TCP " + toPod, "[2001:db8:7::7]:80"},
		{"a backend on the host itself", frame{src: client, dst: node6(30443), proto: TCP, flags: flagSYN},
			verdictPass, "TCP " + client + " > " + node6(6443), node6(30443)},
		{"a cluster IP is not for other machines", frame{src: client, dst: "[fd00:10::10]:80", proto: TCP}, verdictPass, "", ""},
		{"a node port at an address that is not the node's", frame{src: client, dst: "[2001:db8:18::9]:30080", proto: TCP}, verdictPass, "", ""},
		{"a node port of IPv4", frame{src: client, dst: node6(30090), proto: TCP, flags: flagSYN}, verdictPass, "", ""},
		{"no such service", frame{src: client, dst: node6(30082), proto: TCP}, verdictPass, "", ""},
		{"other protocol", frame{src: client, dst: node6(30080), proto: 132}, verdictPass, "", ""},
		{"IPv4's ICMP", frame{src: client, dst: node6(30080), proto: 1}, verdictPass, "", ""},
		{"IPv4 that pretends", frame{src: "[::ffff:198.18.0.2]:40000", dst: node6(30080), proto: TCP, flags: flagSYN}, verdictPass, "", ""},
		{"a later fragment whose first one was not seen", frame{src: client, dst: node6(30080), proto: UDP, fragment: 10}, verdictPass, "", ""},
	} {
		in := c.in.bytes()
		verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, in)
		if verdict != c.verdict {
			t.Errorf("%s: verdict %d, want %d", c.name, verdict, c.verdict)
		}
		if c.out == "" {
			if !bytes.Equal(out, in) {
				t.Errorf("%s: the packet was changed to %s", c.name, describe(out))
			}
			continue
		}
		if got := describe(out); got != c.out {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.out)
		}
		_, to := frameEnds(out)
		reply := frame{src: to.String(), dst: c.in.src, proto: c.in.proto, flags: flagSYN | flagACK, payload: "answer"}
		verdict, out = l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, reply.bytes())
		if want := fmt.Sprintf("%s %s > %s", c.in.proto, c.reply, c.in.src); verdict != verdictPass || describe(out) != want {
			t.Errorf("%s: reply: verdict %d, %s, want %s", c.name, verdict, describe(out), want)
		}
	}
}

// A chain of extension headers that never ends is read so far and no further.
func TestTooManyExtensionHeaders(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	_, pod := l.pod6(d, "caller")
	l.must(d.SetHosts(nil))
	whole := frame{src: fmt.Sprintf("[%s]:1", pod), dst: "[2001:db8:99::1]:80", proto: TCP, flags: flagSYN}.bytes()
	for count, want := range map[int]uint32{0: verdictPass, 6: verdictPass, 7: verdictDrop, 60: verdictDrop} {
		b := slices.Clone(whole[:ethICMPv6])
		b[ethLen+6] = ipv6Destination
		for i := range count {
			next := byte(ipv6Destination)
			if i == count-1 {
				next = byte(TCP)
			}
			b = append(b, next, 0, 0, 0, 0, 0, 0, 0)
		}
		if count == 0 {
			b[ethLen+6] = byte(TCP)
		}
		b = append(b, whole[ethICMPv6:]...)
		binary.BigEndian.PutUint16(b[ethLen+4:], uint16(len(b)-ethICMPv6))
		verdict, _ := l.runProgram(d, bpf.DatapathProgUplinkEgress, l.linkIndex(d, labUplink), b)
		if verdict != want {
			t.Errorf("%d headers: verdict %d, want %d: it may not leave with the pod's address", count, verdict, want)
		}
	}
}

func TestPodProgramIPv6(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	_, ip := l.pod6(d, "one")
	_, peer := l.pod6(d, "two")
	from := l.linkIndex(d, hostLinkName("one"))
	packet := func(src, dst string) []byte {
		return frame{src: "[" + src + "]:1000", dst: "[" + dst + "]:80", proto: TCP}.bytes()
	}
	icmp := func(kind byte, src, dst string) []byte {
		return frame{src: "[" + src + "]:0", dst: "[" + dst + "]:0"}.icmp(append([]byte{kind, 0, 0, 0}, make([]byte, 20)...))
	}
	const link, nodes = "fe80::73:68ff:fe6f:6102", "ff02::1:ff00:1"
	for _, c := range []struct {
		name    string
		in      []byte
		verdict uint32
	}{
		{"to another pod", packet(ip.String(), peer.String()), verdictRedirect},
		{"to the host", packet(ip.String(), labHostIP6), verdictPass},
		{"with the other pod's address", packet(peer.String(), labHostIP6), verdictDrop},
		{"with the host's address", packet(labHostIP6, peer.String()), verdictDrop},
		{"with its link-local address", packet(link, peer.String()), verdictDrop},
		{"with IPv4's", packet("::ffff:10.64.7.1", peer.String()), verdictDrop},
		{"a neighbour is asked for", icmp(135, link, nodes), verdictPass},
		{"by the unspecified address", icmp(135, "::", nodes), verdictPass},
		{"a neighbour answers", icmp(136, link, "fe80::1"), verdictPass},
		{"a neighbour of another link", icmp(135, link, labHostIP6), verdictDrop},
		{"a router is asked for", icmp(133, link, "ff02::2"), verdictDrop},
		{"a pod says it is a router", icmp(134, link, "ff02::1"), verdictDrop},
		{"a redirect", icmp(137, link, "fe80::1"), verdictDrop},
		{"an echo of its own", icmp(128, ip.String(), peer.String()), verdictRedirect},
	} {
		verdict, _ := l.runProgram(d, bpf.DatapathProgPodEgress, from, c.in)
		if verdict != c.verdict {
			t.Errorf("%s: verdict %d, want %d", c.name, verdict, c.verdict)
		}
	}
}

// dualNatLab has one other host on the link with an address of its own, and one
// that is reached by IPv4 and the tunnel alone.
func dualNatLab(t *testing.T, backend string) (*lab, *Datapath) {
	l := dualLab(t)
	l.must(l.host.do(func() error { return widen("198.18.0.1/15", "198.19.0.0/16", labOutsideIP) }))
	d := l.openUntilEnd()
	l.must(d.SetHosts([]Host{
		{Name: "near", Addresses: []netip.Addr{netip.MustParseAddr("198.18.0.9"), netip.MustParseAddr("2001:db8:18::9")},
			PodCIDR: netip.MustParsePrefix("10.64.8.0/24"), PodCIDR6: netip.MustParsePrefix("fd00:64:8::/64")},
		{Name: "far", Addresses: []netip.Addr{netip.MustParseAddr("198.19.0.9")},
			PodCIDR: netip.MustParsePrefix("10.64.9.0/24"), PodCIDR6: netip.MustParsePrefix("fd00:64:9::/64")},
	}))
	for _, proto := range []Proto{TCP, UDP} {
		l.must(d.SetService(Service{Key: proto.String(), Proto: proto, Frontends: []Frontend{{Addr: NodePortIPv6, Port: 30080}},
			Backends: []Backend{{Addr: netip.MustParseAddrPort(backend)}}}))
	}
	return l, d
}

func TestPassedOnIPv6(t *testing.T) {
	const client = "[" + labOutsideIP6 + "]:40000"
	called := node6(30080)
	for _, backend := range []string{"[fd00:64:8::7]:80", "[fd00:64:9::7]:80", "[2001:db8:18::9]:6443"} {
		l, d := dualNatLab(t, backend)
		uplink := l.linkIndex(d, labUplink)
		for _, in := range []frame{
			{src: client, dst: called, proto: TCP, flags: flagSYN},
			{src: client, dst: called, proto: UDP, payload: "odd"},
			{src: client, dst: called, proto: TCP, flags: flagSYN, options: 8},
		} {
			name := fmt.Sprintf("%s %+v", backend, in)
			verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, in.bytes())
			src, dst := frameEnds(out)
			want := fmt.Sprintf("%s %s > %s", in.proto, src, backend)
			if verdict != verdictRedirect || describe(out) != want || src.Addr().String() != labHostIP6 ||
				src.Port() < natPortMin || src.Port() > natPortMax {
				t.Fatalf("%s: verdict %d, %s", name, verdict, describe(out))
			}
			if _, again := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, in.bytes()); !strings.Contains(describe(again), src.String()) {
				t.Errorf("%s: went on from %s, then %s", name, src, describe(again))
			}
			verdict, about := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, errorAbout(2, 0, "2001:db8:18::77", out))
			if want := fmt.Sprintf("ICMPv6 2001:db8:18::77 > %s about %s > %s", labOutsideIP6, client, called); verdict != verdictRedirect || describeICMP(about) != want {
				t.Errorf("%s: too big: verdict %d, %s, want %s", name, verdict, describeICMP(about), want)
			}
			answer := frame{src: dst.String(), dst: src.String(), proto: in.proto, flags: flagSYN | flagACK, payload: "answer"}
			verdict, out = l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, answer.bytes())
			if want := fmt.Sprintf("%s %s > %s", in.proto, called, client); verdict != verdictRedirect || describe(out) != want {
				t.Errorf("%s: answer: verdict %d, %s, want %s", name, verdict, describe(out), want)
			}
		}
	}
}

func dualMasqueradeLab(t *testing.T) (*lab, *Datapath, netip.Addr) {
	l := dualLab(t)
	d := l.openUntilEnd()
	l.must(d.SetHosts([]Host{{Name: "near", Addresses: []netip.Addr{netip.MustParseAddr("198.18.0.9"), netip.MustParseAddr("2001:db8:18::9")},
		PodCIDR: netip.MustParsePrefix("10.64.8.0/24"), PodCIDR6: netip.MustParsePrefix("fd00:64:8::/64")}}))
	_, ip := l.pod6(d, "caller")
	return l, d, ip
}

func TestMasqueradeIPv6(t *testing.T) {
	l, d, pod := dualMasqueradeLab(t)
	uplink := l.linkIndex(d, labUplink)
	const world, router = "[2001:db8:80::80]:443", "2001:db8:18::77"
	caller := netip.AddrPortFrom(pod, 40000).String()
	for _, in := range []frame{
		{src: caller, dst: world, proto: TCP, flags: flagSYN},
		{src: caller, dst: world, proto: UDP, payload: "odd"},
		{src: caller, dst: world, proto: TCP, flags: flagSYN, options: 8, payload: "x"},
	} {
		verdict, out := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, in.bytes())
		src, dst := frameEnds(out)
		if want := fmt.Sprintf("%s %s > %s", in.proto, src, world); verdict != verdictPass || describe(out) != want ||
			src.Addr().String() != labHostIP6 || src.Port() < natPortMin || src.Port() > natPortMax {
			t.Fatalf("%+v: verdict %d, %s", in, verdict, describe(out))
		}
		answer := frame{src: dst.String(), dst: src.String(), proto: in.proto, flags: flagSYN | flagACK, payload: "answer"}
		verdict, back := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, answer.bytes())
		if want := fmt.Sprintf("%s %s > %s", in.proto, world, caller); verdict != verdictRedirect || describe(back) != want {
			t.Errorf("%+v: answer: verdict %d, %s, want %s", in, verdict, describe(back), want)
		}
		verdict, about := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, errorAbout(1, 4, pod.String(), back))
		if want := fmt.Sprintf("ICMPv6 %s > 2001:db8:80::80 about %s > %s", labHostIP6, world, src); verdict != verdictPass || describeICMP(about) != want {
			t.Errorf("%+v: the pod's error about the answer: verdict %d, %s, want %s", in, verdict, describeICMP(about), want)
		}
		for kind := byte(1); kind <= 4; kind++ { // unreachable, too big, time exceeded, parameter problem
			verdict, about := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, errorAbout(kind, 0, router, out))
			want := fmt.Sprintf("ICMPv6 %s > %s about %s > %s", router, pod, caller, world)
			if verdict != verdictRedirect || describeICMP(about) != want {
				t.Errorf("%+v: error %d: verdict %d, %s, want %s", in, kind, verdict, describeICMP(about), want)
			}
		}
	}
	for _, inside := range []string{"[fd00:64:8::5]:80", "[2001:db8:18::9]:80", "[fd00:64:99::1]:80"} {
		in := frame{src: caller, dst: inside, proto: TCP, flags: flagSYN}.bytes()
		if verdict, out := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, in); verdict != verdictPass || !bytes.Equal(in, out) {
			t.Errorf("to %s: verdict %d, %s", inside, verdict, describe(out))
		}
	}
	ping := frame{src: netip.AddrPortFrom(pod, 777).String(), dst: "[2001:db8:80::80]:0"}
	verdict, out := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, echo(ping, false))
	id := number(out)
	if want := fmt.Sprintf("ICMPv6 %s > 2001:db8:80::80 number %d", labHostIP6, id); verdict != verdictPass || describeICMP(out) != want || id < natPortMin {
		t.Fatalf("echo: verdict %d, %s", verdict, describeICMP(out))
	}
	pong := frame{src: "[2001:db8:80::80]:0", dst: node6(int(id))}
	verdict, back := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, echo(pong, true))
	if want := fmt.Sprintf("ICMPv6 2001:db8:80::80 > %s number 777", pod); verdict != verdictRedirect || describeICMP(back) != want {
		t.Errorf("echo's answer: verdict %d, %s, want %s", verdict, describeICMP(back), want)
	}
}

// What a pod says about a call from outside names the address that was called.
func TestErrorsToOutsideIPv6(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	_, pod := l.pod6(d, "server")
	l.must(d.SetService(Service{Key: "web", Proto: UDP, Frontends: []Frontend{{Addr: NodePortIPv6, Port: 30080}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(pod, 8080)}}}))
	uplink := l.linkIndex(d, labUplink)
	client := "[" + labOutsideIP6 + "]:40000"
	_, at := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, frame{src: client, dst: node6(30080), proto: UDP}.bytes())
	verdict, out := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, errorAbout(1, 0, pod.String(), at))
	want := fmt.Sprintf("ICMPv6 %s > %s about %s > %s", labHostIP6, labOutsideIP6, client, node6(30080))
	if verdict != verdictPass || describeICMP(out) != want {
		t.Errorf("verdict %d, %s, want %s", verdict, describeICMP(out), want)
	}
}

func TestFragmentsIPv6(t *testing.T) {
	l, d, pod := dualMasqueradeLab(t)
	l.must(d.SetService(Service{Key: "udp", Proto: UDP, Frontends: []Frontend{{Addr: NodePortIPv6, Port: 30080}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(pod, 8080)}}}))
	uplink := l.linkIndex(d, labUplink)
	client := "[" + labOutsideIP6 + "]:40000"
	for _, c := range []struct {
		name, program string
		in            frame
		verdict       uint32
		src, dst      string
	}{
		{"to the world", bpf.DatapathProgUplinkEgress, frame{src: fmt.Sprintf("[%s]:5000", pod), dst: "[2001:db8:80::80]:443"}, verdictPass, labHostIP6, "2001:db8:80::80"},
		{"to a node port", bpf.DatapathProgUplinkIngress, frame{src: client, dst: node6(30080)}, verdictRedirect, labOutsideIP6, pod.String()},
		{"answered by a node port", bpf.DatapathProgUplinkEgress, frame{src: fmt.Sprintf("[%s]:8080", pod), dst: client}, verdictPass, labHostIP6, labOutsideIP6},
	} {
		for _, part := range []uint16{0x2000, 0x2000 | 10, 20} { // first, middle, last
			in := c.in
			in.proto, in.fragment, in.payload = UDP, part, "payload"
			raw := in.bytes()
			verdict, out := l.runProgram(d, c.program, uplink, raw)
			src, dst, _, _ := partsOf(out[ethLen:])
			if verdict != c.verdict || src.String() != c.src || dst.String() != c.dst {
				t.Errorf("%s, part %#x: verdict %d, %s > %s", c.name, part, verdict, src, dst)
			}
			if same := bytes.Equal(out[ethICMPv6+8:], raw[ethICMPv6+8:]); same != (part&0x1fff != 0) {
				t.Errorf("%s, part %#x: what follows the headers was changed: %t", c.name, part, !same)
			}
		}
	}
}

func TestMalformedPacketsIPv6(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	_, ip := l.pod6(d, "server")
	l.must(d.SetService(Service{Key: "web", Proto: TCP, Frontends: []Frontend{{Addr: NodePortIPv6, Port: 30080}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 80)}}}))
	uplink := l.linkIndex(d, labUplink)
	whole := frame{src: "[" + labOutsideIP6 + "]:1", dst: node6(30080), proto: TCP, flags: flagSYN, options: 8}.bytes()
	for n := ethICMPv6; n < len(whole); n++ {
		verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, whole[:n])
		if cut := n < ethICMPv6+8+14; cut && (verdict != verdictPass || !bytes.Equal(out, whole[:n])) {
			t.Errorf("cut to %d bytes: verdict %d, or packet changed", n, verdict)
		}
	}
	for i := ethLen; i < ethICMPv6+8; i++ {
		for _, v := range []byte{0, 0x0f, 0x2c, 0x3c, 0x40, 0x60, 0xff} {
			b := slices.Clone(whole)
			b[i] = v
			verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, b)
			if len(out) != len(b) || verdict == verdictDrop {
				t.Errorf("byte %d is %#x: verdict %d, %d bytes", i, v, verdict, len(out))
			}
		}
	}
}

// A UDP checksum that comes out as 0 is sent as its other form: 0 would say that
// there is none (RFC 768), which IPv6 does not allow (RFC 8200 section 8.1).
func TestChecksumIsNeverZero(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	_, four := l.pod(d, "server")
	six := d.pods.byUID["server"].record.Address6
	uplink := l.linkIndex(d, labUplink)
	for _, c := range []struct{ pod, client, node string }{
		{netip.AddrPortFrom(four, 8080).String(), labOutsideIP + ":40000", labHostIP + ":30080"},
		{netip.AddrPortFrom(six, 8080).String(), "[" + labOutsideIP6 + "]:40000", node6(30080)},
	} {
		face := Frontend{Port: 30080}
		if strings.HasPrefix(c.pod, "[") {
			face.Addr = NodePortIPv6
		}
		l.must(d.SetService(Service{Key: c.pod, Proto: UDP, Frontends: []Frontend{face}, Backends: []Backend{{Addr: netip.MustParseAddrPort(c.pod)}}}))
		wanted := frame{src: c.client, dst: c.pod, proto: UDP}
		found := false
		for n := range 1 << 16 {
			wanted.payload = string([]byte{byte(n >> 8), byte(n)})
			b := wanted.bytes()
			_, _, _, transport := partsOf(b[ethLen:])
			if found = transport[6] == 0 && transport[7] == 0; found {
				break
			}
		}
		if !found {
			t.Fatalf("no payload to %s has the checksum 0", c.pod)
		}
		in := wanted
		in.dst = c.node
		verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, in.bytes())
		_, _, _, transport := partsOf(out[ethLen:])
		if verdict != verdictRedirect || transport[6] != 0xff || transport[7] != 0xff {
			t.Errorf("to %s: verdict %d, checksum %x", c.pod, verdict, transport[6:8])
		}
	}
}
