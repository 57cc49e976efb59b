package netdp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/bpf"
)

func masqueradeLab(t *testing.T, change func(*Options)) (*lab, *Datapath, netip.Addr) {
	l := newLab(t)
	l.opts.CellPodCIDR = netip.MustParsePrefix("10.64.0.0/10")
	if change != nil {
		change(&l.opts)
	}
	d := l.openUntilEnd()
	l.must(d.SetHosts([]Host{{Name: "near", Addresses: []netip.Addr{netip.MustParseAddr("198.18.0.9")}, PodCIDR: netip.MustParsePrefix("10.64.8.0/24")}}))
	_, ip := l.pod(d, "caller")
	return l, d, ip
}

// What a pod sends to the world leaves in the host's name; the answers, and
// errors about it, come back to the pod.
func TestMasquerade(t *testing.T) {
	l, d, pod := masqueradeLab(t, nil)
	uplink := l.linkIndex(d, labUplink)
	const world = "203.0.113.80:443"
	caller := pod.String() + ":40000"
	for _, in := range []frame{
		{src: caller, dst: world, proto: TCP, flags: flagSYN},
		{src: caller, dst: world, proto: UDP, payload: "odd"},
		{src: caller, dst: world, proto: UDP, noSum: true},
		{src: caller, dst: world, proto: TCP, flags: flagSYN, options: 8, payload: "x"},
	} {
		t.Run(fmt.Sprintf("%+v", in), func(t *testing.T) {
			verdict, out := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, in.bytes())
			src, dst := frameEnds(out)
			suffix := ""
			if in.noSum {
				suffix = " no checksum"
			}
			if want := fmt.Sprintf("%s %s > %s%s", in.proto, src, world, suffix); verdict != verdictPass || describe(out) != want ||
				src.Addr().String() != labHostIP || src.Port() < natPortMin || src.Port() > natPortMax {
				t.Fatalf("verdict %d, %s", verdict, describe(out))
			}
			in.flags = flagACK
			if _, again := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, in.bytes()); !strings.HasPrefix(describe(again), fmt.Sprintf("%s %s", in.proto, src)) {
				t.Errorf("left from %s, then %s", src, describe(again))
			}
			answer := frame{src: dst.String(), dst: src.String(), proto: in.proto, flags: flagSYN | flagACK, payload: "answer"}
			verdict, back := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, answer.bytes())
			if want := fmt.Sprintf("%s %s > %s", in.proto, world, caller); verdict != verdictRedirect || describe(back) != want {
				t.Errorf("answer: verdict %d, %s, want %s", verdict, describe(back), want)
			}
			answer.src = "203.0.113.81:443"
			if verdict, _ := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, answer.bytes()); verdict != verdictPass {
				t.Errorf("an answer of somebody who was not called: verdict %d", verdict)
			}
			verdict, about := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, errorAbout(3, 3, pod.String(), back))
			if want := fmt.Sprintf("ICMP %s > 203.0.113.80 about %s > %s", labHostIP, world, src); verdict != verdictPass || describeICMP(about) != want {
				t.Errorf("the pod's error about the answer: verdict %d, %s, want %s", verdict, describeICMP(about), want)
			}
			verdict, about = l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, tooLarge("198.18.0.77", out))
			if want := fmt.Sprintf("ICMP 198.18.0.77 > %s about %s > %s", pod, caller, world); verdict != verdictRedirect || describeICMP(about) != want {
				t.Errorf("too large: verdict %d, %s, want %s", verdict, describeICMP(about), want)
			}
		})
	}
}

func TestMasqueradedEcho(t *testing.T) {
	l, d, pod := masqueradeLab(t, nil)
	uplink := l.linkIndex(d, labUplink)
	ping := frame{src: pod.String() + ":777", dst: "203.0.113.80:0"}
	verdict, out := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, echo(ping, false))
	id := number(out)
	if want := fmt.Sprintf("ICMP %s > 203.0.113.80 number %d", labHostIP, id); verdict != verdictPass || describeICMP(out) != want || id < natPortMin {
		t.Fatalf("verdict %d, %s", verdict, describeICMP(out))
	}
	pong := frame{src: "203.0.113.80:0", dst: fmt.Sprintf("%s:%d", labHostIP, id)}
	verdict, back := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, echo(pong, true))
	if want := fmt.Sprintf("ICMP 203.0.113.80 > %s number 777", pod); verdict != verdictRedirect || describeICMP(back) != want {
		t.Errorf("answer: verdict %d, %s, want %s", verdict, describeICMP(back), want)
	}
	verdict, about := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, tooLarge("198.18.0.77", out))
	if want := fmt.Sprintf("ICMP 198.18.0.77 > %s", pod); verdict != verdictRedirect || !strings.HasPrefix(describeICMP(about), want+" about ") ||
		binary.BigEndian.Uint16(about[ethLen+ipLen+8+ipLen+4:]) != 777 {
		t.Errorf("an error about it: verdict %d, %s", verdict, describeICMP(about))
	}
}

// Parts of a datagram go where its first part went, both ways.
func TestFragments(t *testing.T) {
	l, d, pod := masqueradeLab(t, nil)
	l.must(d.SetService(Service{Key: "udp", Proto: UDP, Frontends: []Frontend{{Port: 30080}}, Backends: []Backend{{Addr: netip.AddrPortFrom(pod, 8080)}}}))
	uplink := l.linkIndex(d, labUplink)
	client := labOutsideIP + ":40000"
	for _, c := range []struct {
		name, program string
		in            frame
		verdict       uint32
		src, dst      string
	}{
		{"to the world", bpf.DatapathProgUplinkEgress, frame{src: pod.String() + ":5000", dst: "203.0.113.80:443", proto: UDP}, verdictPass, labHostIP, "203.0.113.80"},
		{"to a node port", bpf.DatapathProgUplinkIngress, frame{src: client, dst: labHostIP + ":30080", proto: UDP}, verdictRedirect, labOutsideIP, pod.String()},
		{"answered by a node port", bpf.DatapathProgUplinkEgress, frame{src: pod.String() + ":8080", dst: client, proto: UDP}, verdictPass, labHostIP, labOutsideIP},
	} {
		for _, part := range []uint16{0x2000, 0x2000 | 10, 20} { // first, middle, last
			in := c.in
			in.fragment, in.payload = part, "payload"
			raw := in.bytes()
			verdict, out := l.runProgram(d, c.program, uplink, raw)
			src, _ := netip.AddrFromSlice(out[ethLen+12 : ethLen+16])
			dst, _ := netip.AddrFromSlice(out[ethLen+16 : ethLen+20])
			if verdict != c.verdict || src.String() != c.src || dst.String() != c.dst || sum(out[ethLen:ethLen+ipLen]) != 0xffff {
				t.Errorf("%s, part %#x: verdict %d, %s > %s", c.name, part, verdict, src, dst)
			}
			if same := bytes.Equal(out[ethLen+ipLen:], raw[ethLen+ipLen:]); same != (part&0x1fff != 0) {
				t.Errorf("%s, part %#x: what follows the IP header was changed: %t", c.name, part, !same)
			}
		}
	}
	late := frame{src: pod.String() + ":5000", dst: "203.0.113.99:443", proto: UDP, fragment: 10}
	if verdict, _ := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, late.bytes()); verdict != verdictDrop {
		t.Errorf("a part without a first one: verdict %d; it may not leave with the pod's address", verdict)
	}
}

// Who knows the way to pods sees their own addresses, and so does who called
// first.
func TestNotMasqueraded(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Options)
		called *frame // comes first, from outside
		out    frame
	}{
		{"a pod of another host", nil, nil, frame{dst: "10.64.8.7:80", proto: TCP, flags: flagSYN}},
		{"a pod of a host that is not known yet", nil, nil, frame{dst: "10.65.1.7:80", proto: TCP, flags: flagSYN}},
		{"another host", nil, nil, frame{dst: "198.18.0.9:80", proto: TCP, flags: flagSYN}},
		{"an answer to a call by TCP", nil, nil, frame{dst: "203.0.113.80:443", proto: TCP, flags: flagSYN | flagACK}},
		{"an answer to a call by UDP", nil, &frame{src: "203.0.113.80:53", proto: UDP}, frame{dst: "203.0.113.80:53", proto: UDP}},
		{"a range that is excepted", func(o *Options) {
			o.MasqueradeExcept = []netip.Prefix{netip.MustParsePrefix("203.0.113.5/24")}
		}, nil, frame{dst: "203.0.113.80:443", proto: TCP, flags: flagSYN}},
		{"masquerade is off", func(o *Options) { o.NoMasquerade = true }, nil, frame{dst: "203.0.113.80:443", proto: TCP, flags: flagSYN}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, d, pod := masqueradeLab(t, c.change)
			uplink := l.linkIndex(d, labUplink)
			own := pod.String() + ":40000"
			if c.called != nil {
				c.called.dst = own
				l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, c.called.bytes())
			}
			c.out.src = own
			verdict, out := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, c.out.bytes())
			if verdict != verdictPass || !bytes.Equal(out, c.out.bytes()) {
				t.Errorf("verdict %d, %s", verdict, describe(out))
			}
			if c.called != nil {
				about := errorAbout(3, 3, pod.String(), c.called.bytes())
				if verdict, out := l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, about); verdict != verdictPass || !bytes.Equal(out, about) {
					t.Errorf("an error about the call: verdict %d, %s", verdict, describeICMP(out))
				}
			}
		})
	}
}

// Real sockets: the world outside has no way to pods, and hears the host.
func TestPodCallsTheWorld(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	l.must(d.SetHosts(nil))
	pod, ip := l.pod(d, "caller")
	l.serveTCP(l.outside, ":80", "world")
	l.serveUDP(l.outside, ":53", "world")
	for _, network := range []string{"tcp4", "udp4"} {
		port := map[string]string{"tcp4": ":80", "udp4": ":53"}[network]
		if got, want := l.ask(pod, network, labOutsideIP+port), "world "+labHostIP+" hello"; got != want {
			t.Errorf("%s: got %q, want %q", network, got, want)
		}
	}
	large := strings.Repeat("0123456789", 90)
	c, err := dial(pod, "udp4", labOutsideIP+":53")
	l.must(err)
	defer c.Close()
	for _, ns := range []namespace{l.host, l.outside} { // both directions have to be cut
		l.must(ns.do(func() error { return setMTU(labUplink, 600) }))
	}
	_, err = call(c, large) // learns the path's MTU
	if !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("a datagram larger than the path: %v", err)
	}
	if got, err := call(c, large); err != nil || got != "world "+labHostIP+" "+large {
		t.Errorf("a datagram of several parts: %d bytes, %v", len(got), err)
	}
	l.serveTCP(pod, ":8080", "pod")
	if got, want := l.ask(l.outside, "tcp4", ip.String()+":8080"), "pod "+labOutsideIP+" hello"; got != want {
		t.Errorf("called by its own address: got %q, want %q", got, want)
	}
}
