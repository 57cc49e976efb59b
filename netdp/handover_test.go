package netdp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"shoal/bpf"
)

// handedDSCP is HANDED_DSCP of bpf/handover.h.
const handedDSCP = 0x2b

// marks reads the code point and the hops left of a frame.
func marks(b []byte) (dscp, hops byte) {
	ip := b[ethLen:]
	if ip[0]>>4 == 6 {
		return byte(binary.BigEndian.Uint16(ip) >> 6 & 0x3f), ip[7]
	}
	return ip[1] >> 2, ip[8]
}

// marked is a frame with another code point, some ECN, and so many hops left.
func marked(b []byte, dscp, hops byte) []byte {
	ip := b[ethLen:]
	if ip[0]>>4 == 6 {
		binary.BigEndian.PutUint16(ip, 0x6000|uint16(dscp)<<6|1<<4)
		ip[7] = hops
		return b
	}
	ip[1], ip[8], ip[10], ip[11] = dscp<<2|1, hops, 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip[:int(ip[0]&0x0f)*4]))
	return b
}

func ecn(b []byte) byte {
	ip := b[ethLen:]
	if ip[0]>>4 == 6 {
		return ip[1] >> 4 & 3
	}
	return ip[1] & 3
}

// Frames for other machines are left to them, as where a switch sends frames to all.
func TestFramesOfOtherMachinesAreLeftAlone(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	_, pod := l.pod(d, "server")
	l.must(d.SetService(Service{Key: "web", Proto: UDP, Frontends: []Frontend{{Addr: netip.MustParseAddr("198.18.0.200"), Port: 80, Outside: true}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(pod, 8080)}}}))
	for last, want := range map[byte]uint32{2: verdictRedirect, 3: verdictPass} {
		in := frame{src: labOutsideIP + ":40000", dst: "198.18.0.200:80", proto: UDP}.bytes()
		in[5] = last // of the hardware address it is for
		verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, l.linkIndex(d, labUplink), in)
		if verdict != want {
			t.Errorf("for ...:%02x: verdict %d, %s, want %d", last, verdict, describe(out), want)
		}
	}
}

// What calls an address that all hosts have goes to the backend's host as it is,
// marked and a hop older; what came so goes no further than one host.
func TestCallsAreHandedOver(t *testing.T) {
	const own = 5 // a code point of the caller's
	for _, family := range []struct{ client, vip, near, stranger, own, pod string }{
		{labOutsideIP + ":40000", "198.18.0.200:80", "10.64.8.7:80", "198.18.0.77:80", "198.18.0.9:40001", "10.64.8.8:40001"},
		{"[" + labOutsideIP6 + "]:40000", "[2001:db8:18::c8]:80", "[fd00:64:8::7]:80", "[2001:db8:18::77]:80", "[2001:db8:18::9]:40001", "[fd00:64:8::8]:40001"},
	} {
		l := dualLab(t)
		d := l.openUntilEnd()
		l.must(d.SetHosts([]Host{{Name: "near", Addresses: []netip.Addr{netip.MustParseAddr("198.18.0.9"), netip.MustParseAddr("2001:db8:18::9")},
			PodCIDR: netip.MustParsePrefix("10.64.8.0/24"), PodCIDR6: netip.MustParsePrefix("fd00:64:8::/64")}}))
		_, local6 := l.pod6(d, "local")
		local := netip.AddrPortFrom(d.pods.byUID["local"].record.Address, 8080)
		if netip.MustParseAddrPort(family.vip).Addr().Is6() {
			local = netip.AddrPortFrom(local6, 8080)
		}
		uplink := l.linkIndex(d, labUplink)
		vip := netip.MustParseAddrPort(family.vip)
		serve := func(backend string) {
			l.must(d.SetService(Service{Key: "web", Proto: TCP, Frontends: []Frontend{{Addr: vip.Addr(), Port: vip.Port(), Outside: true}},
				Backends: []Backend{{Addr: netip.MustParseAddrPort(backend)}}}))
		}
		run := func(flags, dscp, hops byte, options int) (uint32, []byte) {
			in := frame{src: family.client, dst: family.vip, proto: TCP, flags: flags, options: options, payload: "odd"}
			return l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, marked(in.bytes(), dscp, hops))
		}
		same := fmt.Sprintf("TCP %s > %s", family.client, family.vip)

		serve(family.near)
		for _, options := range []int{0, 8} {
			for _, flags := range []byte{flagACK, flagSYN} { // an ACK first: no state is needed
				verdict, out := run(flags, own, 17, options)
				dscp, hops := marks(out)
				if verdict != verdictRedirect || describe(out) != same || dscp != handedDSCP || hops != 16 || ecn(out) != 1 {
					t.Errorf("flags %#x, %d bytes of options: verdict %d, %s, code point %#x, %d hops", flags, options, verdict, describe(out), dscp, hops)
				}
			}
		}
		if verdict, out := run(flagACK, own, 1, 0); verdict != verdictDrop {
			t.Errorf("at the last hop: verdict %d, %s", verdict, describe(out))
		}

		// It came handed over: this host passes it on in its own name, if at all.
		verdict, out := run(flagSYN, handedDSCP, 17, 0)
		if src, dst := frameEnds(out); verdict != verdictRedirect || dst.String() != family.near || src.Port() < natPortMin || src.String() == family.client {
			t.Errorf("handed over twice: verdict %d, %s", verdict, describe(out))
		}
		// The backend's host, or a pod of it, calls by itself.
		for _, caller := range []string{family.own, family.pod} {
			in := frame{src: caller, dst: family.vip, proto: TCP, flags: flagSYN}
			verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, in.bytes())
			if src, dst := frameEnds(out); verdict != verdictRedirect || dst.String() != family.near || src.Port() < natPortMin || src.String() == caller {
				t.Errorf("called by %s: verdict %d, %s", caller, verdict, describe(out))
			}
		}
		serve(local.String())
		verdict, out = run(flagSYN, handedDSCP, 17, 0)
		if dscp, hops := marks(out); verdict != verdictRedirect || dscp != 0 || hops != 17 || ecn(out) != 1 || describe(out) != fmt.Sprintf("TCP %s > %s", family.client, local) {
			t.Errorf("to a pod here: verdict %d, %s, code point %#x, %d hops", verdict, describe(out), dscp, hops)
		}
		if _, out = run(flagSYN, own, 17, 0); func() byte { d, _ := marks(out); return d }() != own {
			t.Error("the code point of a call that came straight is changed")
		}

		// A machine that is no host does not know the address.
		serve(family.stranger)
		verdict, out = run(flagSYN, own, 17, 0)
		if src, dst := frameEnds(out); verdict != verdictRedirect || dst.String() != family.stranger || src.Port() < natPortMin || src.String() == family.client {
			t.Errorf("to a machine that is no host: verdict %d, %s", verdict, describe(out))
		}
	}
}
