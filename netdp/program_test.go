package netdp

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"shoal/bpf"
)

var update = flag.Bool("update", false, "rewrite golden files")

const (
	verdictPass     = 0
	verdictDrop     = 2
	verdictRedirect = 7
)

// skbContext is the start of the kernel's struct __sk_buff: the device is at 40.
func skbContext(ifindex int) []byte {
	ctx := make([]byte, 192)
	binary.NativeEndian.PutUint32(ctx[40:], uint32(ifindex))
	return ctx
}

// runProgram gives one packet to a program as if it came by a device.
func (l *lab) runProgram(d *Datapath, program string, ifindex int, packet []byte) (verdict uint32, out []byte) {
	l.t.Helper()
	opts := &ebpf.RunOptions{Data: packet, DataOut: make([]byte, len(packet)+256), Context: skbContext(ifindex)}
	l.must(d.host.do(func() (err error) {
		verdict, err = d.progs[program].Run(opts)
		return err
	}))
	return verdict, opts.DataOut
}

func (l *lab) linkIndex(d *Datapath, name string) int {
	l.t.Helper()
	link, err := d.nl.LinkByName(name)
	l.must(err)
	return link.Attrs().Index
}

func TestUplinkPrograms(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	_, podIP := l.pod(d, "server")
	backend := Backend{Addr: netip.AddrPortFrom(podIP, 8080)}
	for _, s := range []Service{
		{Key: "tcp", Proto: TCP, Frontends: []Frontend{
			{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80},
			{Addr: netip.MustParseAddr("203.0.113.7"), Port: 80, Outside: true}, {Port: 30080},
		}, Backends: []Backend{backend}},
		{Key: "udp", Proto: UDP, Frontends: []Frontend{{Port: 30080}}, Backends: []Backend{backend}},
		{Key: "host", Proto: TCP, Frontends: []Frontend{{Port: 30443}}, Backends: []Backend{
			{Addr: netip.MustParseAddrPort(labHostIP + ":6443")}}},
		{Key: "empty", Proto: TCP, Frontends: []Frontend{{Port: 30081}}},
	} {
		l.must(d.SetService(s))
	}
	const client = labOutsideIP + ":40000"
	node := func(port int) string { return fmt.Sprintf("%s:%d", labHostIP, port) }
	toPod := fmt.Sprintf("%s > %s:8080", client, podIP)
	for _, c := range []struct {
		name    string
		in      frame
		verdict uint32
		out     string // empty: unchanged
		reply   string // what the backend's answer becomes
	}{
		{"TCP to a node port", frame{src: client, dst: node(30080), proto: TCP, flags: flagSYN},
			verdictRedirect, "TCP " + toPod, node(30080)},
		{"UDP to a node port", frame{src: client, dst: node(30080), proto: UDP, payload: "odd"},
			verdictRedirect, "UDP " + toPod, node(30080)},
		{"UDP without a checksum", frame{src: client, dst: node(30080), proto: UDP, noSum: true},
			verdictRedirect, "UDP " + toPod + " no checksum", node(30080)},
		{"IP options", frame{src: client, dst: node(30080), proto: TCP, flags: flagSYN, options: 8},
			verdictRedirect, "TCP " + toPod, node(30080)},
		{"TCP to an external address", frame{src: client, dst: "203.0.113.7:80", proto: TCP, flags: flagSYN},
			verdictRedirect, "TCP " + toPod, "203.0.113.7:80"},
		{"a backend on the host itself", frame{src: client, dst: node(30443), proto: TCP, flags: flagSYN},
			verdictPass, "TCP " + client + " > " + node(6443), node(30443)},
		{"a flow that another host began", frame{src: labOutsideIP + ":40001", dst: node(30080), proto: TCP, flags: flagACK},
			verdictRedirect, fmt.Sprintf("TCP %s:40001 > %s:8080", labOutsideIP, podIP), node(30080)},
		{"a cluster IP is not for other machines", frame{src: client, dst: "10.0.0.10:80", proto: TCP}, verdictPass, "", ""},
		{"a node port at an address that is not the node's", frame{src: client, dst: "198.18.0.9:30080", proto: TCP}, verdictPass, "", ""},
		{"no backend", frame{src: client, dst: node(30081), proto: TCP, flags: flagSYN}, verdictPass, "", ""},
		{"no such service", frame{src: client, dst: node(30082), proto: TCP}, verdictPass, "", ""},
		{"other protocol", frame{src: client, dst: node(30080), proto: 132}, verdictPass, "", ""},
		{"a later fragment whose first one was not seen", frame{src: client, dst: node(30080), proto: UDP, fragment: 10}, verdictPass, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := *l
			l.t = t
			in := c.in.bytes()
			uplink := l.linkIndex(d, labUplink)
			verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, in)
			if verdict != c.verdict {
				t.Errorf("verdict %d, want %d", verdict, c.verdict)
			}
			if c.out == "" {
				if !bytes.Equal(out, in) {
					t.Errorf("the packet was changed to %s", describe(out))
				}
				return
			}
			if got := describe(out); got != c.out {
				t.Errorf("got  %s\nwant %s", got, c.out)
			}
			l.checkReply(d, c.in, out, c.reply)
		})
	}
}

// checkReply sends the backend's answer through the other program.
func (l *lab) checkReply(d *Datapath, in frame, out []byte, from string) {
	l.t.Helper()
	dst, _ := netip.AddrFromSlice(out[ethLen+16 : ethLen+20])
	port := 8080
	if dst == netip.MustParseAddr(labHostIP) {
		port = 6443
	}
	reply := frame{src: fmt.Sprintf("%s:%d", dst, port), dst: in.src, proto: in.proto, flags: flagSYN | flagACK, payload: "answer"}
	verdict, got := l.runProgram(d, bpf.DatapathProgUplinkEgress, l.linkIndex(d, labUplink), reply.bytes())
	want := fmt.Sprintf("%s %s > %s", in.proto, from, in.src)
	if verdict != verdictPass || describe(got) != want {
		l.t.Errorf("reply: verdict %d, %s, want %s", verdict, describe(got), want)
	}
}

func TestFlowFollowsItsBackend(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	_, a := l.pod(d, "a")
	_, b := l.pod(d, "b")
	pods := []Backend{{Addr: netip.AddrPortFrom(a, 80)}, {Addr: netip.AddrPortFrom(b, 80)}}
	service := Service{Key: "web", Proto: TCP, Frontends: []Frontend{{Port: 30080}}, Backends: pods}
	l.must(d.SetService(service))
	send := func(flags byte) netip.Addr {
		in := frame{src: labOutsideIP + ":40000", dst: labHostIP + ":30080", proto: TCP, flags: flags}
		_, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, l.linkIndex(d, labUplink), in.bytes())
		dst, _ := netip.AddrFromSlice(out[ethLen+16 : ethLen+20])
		return dst
	}
	first := send(flagSYN)
	other := a
	if first == a {
		other = b
	}
	set := func(backends ...Backend) {
		service.Backends = backends
		l.must(d.SetService(service))
	}
	backendOf := func(addr netip.Addr, draining bool) Backend {
		return Backend{Addr: netip.AddrPortFrom(addr, 80), Draining: draining}
	}
	check := func(what string, flags byte, want netip.Addr) {
		t.Helper()
		if got := send(flags); got != want {
			t.Errorf("%s: went to %s, want %s", what, got, want)
		}
	}
	check("second packet", flagACK, first)
	set(backendOf(first, true), backendOf(other, false))
	check("established, its backend drains", flagACK, first)
	check("new connection, that backend drains", flagSYN, other)
	check("and stays there", flagACK, other)
	set(backendOf(other, true), backendOf(first, false))
	check("established, its backend drains", flagACK, other)
	set(backendOf(first, false))
	check("established, its backend left and runs on", flagACK, other)
	check("new connection, that backend left", flagSYN, first)
	service.Backends = []Backend{backendOf(other, false)}
	l.must(d.SetService(service))
	check("established, its backend left and runs on", flagACK, first)
	l.must(d.Detach(t.Context(), map[netip.Addr]string{a: "a", b: "b"}[first]))
	check("established, its backend is no more", flagACK, other)
}

func TestPodProgram(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	_, ip := l.pod(d, "one")
	_, peer := l.pod(d, "two")
	from := l.linkIndex(d, hostLinkName("one"))
	arp := append(bytes.Repeat([]byte{0xff}, 12), 0x08, 0x06)
	ipv6 := append(bytes.Repeat([]byte{2}, 12), 0x86, 0xdd)
	packet := func(src, dst string) []byte {
		return frame{src: src + ":1000", dst: dst + ":80", proto: TCP}.bytes()
	}
	for _, c := range []struct {
		name    string
		in      []byte
		verdict uint32
	}{
		{"to another pod", packet(ip.String(), peer.String()), verdictRedirect},
		{"to the host", packet(ip.String(), labHostIP), verdictPass},
		{"with the other pod's address", packet(peer.String(), labHostIP), verdictDrop},
		{"with the host's address", packet(labHostIP, peer.String()), verdictDrop},
		{"with an address of nobody", packet("192.0.2.1", peer.String()), verdictDrop},
		{"ARP", append(arp, make([]byte, 28)...), verdictPass},
		{"IPv6", append(ipv6, make([]byte, 40)...), verdictDrop},
	} {
		verdict, out := l.runProgram(d, bpf.DatapathProgPodEgress, from, c.in)
		if verdict != c.verdict {
			t.Errorf("%s: verdict %d, want %d", c.name, verdict, c.verdict)
		}
		if verdict == verdictRedirect && !bytes.Equal(out[:12], append(slices.Clone(podMAC), hostMAC...)) {
			t.Errorf("%s: hardware addresses are % x", c.name, out[:12])
		}
	}
}

// instructionSlack is how much a kernel's verifier may count beyond what the
// one that wrote the golden file did: releases differ in what they prune.
const instructionSlack = 1.5

func TestVerifiedInstructions(t *testing.T) {
	const golden = "testdata/instructions.txt"
	l := newLab(t)
	d := l.openUntilEnd()
	counts := map[string]uint32{}
	var lines []string
	for name, p := range d.progs {
		info, err := p.Info()
		l.must(err)
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("kernel does not count verified instructions (Linux 5.16 or later does)")
		}
		counts[name] = n
		lines = append(lines, fmt.Sprintf("%s %d\n", name, n))
	}
	slices.Sort(lines)
	if *update {
		l.must(os.MkdirAll("testdata", 0o755))
		l.must(os.WriteFile(golden, []byte(strings.Join(lines, "")), 0o644))
	}
	data, err := os.ReadFile(golden)
	l.must(err)
	for line := range strings.Lines(string(data)) {
		var name string
		var recorded uint32
		_, err := fmt.Sscan(line, &name, &recorded)
		l.must(err)
		n, ok := counts[name]
		if !ok || float64(n) > instructionSlack*float64(recorded) {
			t.Errorf("%s: %d instructions verified, %d recorded; run with -update if that is meant", name, n, recorded)
		}
		delete(counts, name)
	}
	for name := range counts {
		t.Errorf("%s is not in %s; run with -update", name, golden)
	}
}

func TestMalformedPackets(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	_, ip := l.pod(d, "server")
	l.must(d.SetService(Service{Key: "web", Proto: TCP, Frontends: []Frontend{{Port: 30080}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 80)}}}))
	uplink := l.linkIndex(d, labUplink)
	whole := frame{src: labOutsideIP + ":1", dst: labHostIP + ":30080", proto: TCP, flags: flagSYN}.bytes()
	for n := ethLen + ipLen; n < len(whole); n++ { // the kernel's test run takes nothing shorter
		verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, whole[:n])
		if cut := n < ethLen+ipLen+14; cut && (verdict != verdictPass || !bytes.Equal(out, whole[:n])) {
			t.Errorf("cut to %d bytes: verdict %d, or packet changed", n, verdict)
		}
	}
	for i := ethLen; i < ethLen+ipLen; i++ {
		for _, v := range []byte{0, 0x0f, 0x40, 0x4f, 0x60, 0xff} {
			b := slices.Clone(whole)
			b[i] = v
			l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, b)
		}
	}
	if _, err := d.Attached(context.Background()); err != nil {
		t.Fatal(err)
	}
}
