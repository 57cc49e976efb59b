package netdp

import (
	"net/netip"
	"testing"

	"shoal/bpf"
)

// What comes from other machines with the address of this host or a pod of it is
// dropped, unless a router returned a call of a service whose backend is
// elsewhere.
func TestOwnAddressesFromOutside(t *testing.T) {
	l, d := natLab(t, "10.64.8.7:80")
	_, ip := l.pod(d, "victim")
	_, other := l.pod(d, "other")
	l.must(d.SetService(Service{Key: "near", Proto: TCP, Frontends: []Frontend{{Port: 30081}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(other, 80)}}}))
	uplink := l.linkIndex(d, labUplink)
	const host = labHostIP + ":5000"
	victim := ip.String() + ":5000"
	spoofed := func() uint64 {
		counts, err := d.Drops()
		l.must(err)
		return counts["spoofed-source"]
	}
	call := frame{src: other.String() + ":80", dst: victim, proto: TCP}.bytes()
	for _, c := range []struct {
		name    string
		packet  []byte
		verdict uint32
	}{
		{"to another pod", frame{src: victim, dst: other.String() + ":80", proto: TCP, flags: flagSYN}.bytes(), verdictDrop},
		{"to the host", frame{src: victim, dst: labHostIP + ":22", proto: TCP, flags: flagSYN}.bytes(), verdictDrop},
		{"to another pod by UDP", frame{src: victim, dst: other.String() + ":80", proto: UDP}.bytes(), verdictDrop},
		{"to another pod, without ports", frame{src: victim, dst: other.String() + ":0", proto: 47}.bytes(), verdictDrop},
		{"an error", tooLarge(ip.String(), call), verdictDrop},
		{"to a node port with its backend here", frame{src: victim, dst: labHostIP + ":30081", proto: TCP, flags: flagSYN}.bytes(), verdictDrop},
		{"to a node port with its backend elsewhere", frame{src: victim, dst: labHostIP + ":30080", proto: TCP, flags: flagSYN}.bytes(), verdictRedirect},
		{"of the host, to a pod", frame{src: host, dst: other.String() + ":80", proto: TCP, flags: flagSYN}.bytes(), verdictDrop},
		{"of the host, to a pod by UDP", frame{src: host, dst: other.String() + ":80", proto: UDP}.bytes(), verdictDrop},
		{"of the host, to itself", frame{src: host, dst: labHostIP + ":22", proto: TCP, flags: flagSYN}.bytes(), verdictDrop},
		{"of the host, without ports", frame{src: host, dst: other.String() + ":0", proto: 47}.bytes(), verdictDrop},
		{"of the host, an error", tooLarge(labHostIP, call), verdictDrop},
		{"of the host, to a node port with its backend here", frame{src: host, dst: labHostIP + ":30081", proto: TCP, flags: flagSYN}.bytes(), verdictDrop},
		{"of the host, to a node port with its backend elsewhere", frame{src: host, dst: labHostIP + ":30080", proto: TCP, flags: flagSYN}.bytes(), verdictRedirect},
		{"of the cluster's DNS", frame{src: "10.64.7.0:53", dst: other.String() + ":5353", proto: UDP}.bytes(), verdictDrop},
		{"of a neighbour, to a pod", frame{src: labOutsideIP + ":5000", dst: other.String() + ":80", proto: UDP}.bytes(), verdictRedirect},
		{"of a pod of another host", frame{src: "10.64.8.7:5000", dst: other.String() + ":80", proto: TCP, flags: flagSYN}.bytes(), verdictRedirect},
	} {
		before := spoofed()
		verdict, _ := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, c.packet)
		counted := spoofed() - before
		if verdict != c.verdict || (counted == 1) != (verdict == verdictDrop) {
			t.Errorf("%s: verdict %d, want %d; %d counted", c.name, verdict, c.verdict, counted)
		}
	}
}

// The stack takes IPv6 with its own source from anybody.
func TestOwnIPv6FromOutside(t *testing.T) {
	l := dualLab(t)
	d := l.openUntilEnd()
	_, pod := l.pod6(d, "server")
	uplink := l.linkIndex(d, labUplink)
	for _, c := range []struct {
		src     string
		verdict uint32
	}{{labHostIP6, verdictDrop}, {labOutsideIP6, verdictRedirect}} {
		f := frame{src: "[" + c.src + "]:5000", dst: netip.AddrPortFrom(pod, 80).String(), proto: UDP}
		if verdict, _ := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, f.bytes()); verdict != c.verdict {
			t.Errorf("from %s: verdict %d, want %d", c.src, verdict, c.verdict)
		}
	}
}

// A program of the host calls an isolated pod from any address of the host's, and
// nobody else takes part in that.
func TestNodesConnectionsFromOutside(t *testing.T) {
	p := newIsolatedPod(t)
	const another = "198.51.100.5:7000" // of the host's addresses
	server := p.ip.String() + ":80"
	for _, proto := range []Proto{TCP, UDP} {
		call := frame{src: another, dst: server, proto: proto, flags: flagSYN}
		if verdict, _ := p.runProgram(p.d, bpf.DatapathProgPodIngress, p.link, call.bytes()); verdict != verdictPass {
			t.Fatalf("%s of a program of the host: verdict %d", proto, verdict)
		}
		answer := frame{src: server, dst: another, proto: proto, flags: flagSYN | flagACK}
		if verdict, _ := p.runProgram(p.d, bpf.DatapathProgPodEgress, p.link, answer.bytes()); verdict == verdictDrop {
			t.Errorf("%s: the answer is dropped", proto)
		}
		for _, flags := range []byte{flagSYN, flagACK, flagRST} {
			forged := frame{src: another, dst: server, proto: proto, flags: flags}
			if verdict := p.runToPod(p.d, "one", p.uplink, forged.bytes()); verdict != verdictDrop {
				t.Errorf("%s forged by another machine, flags %#x: verdict %d", proto, flags, verdict)
			}
		}
	}
}
