package netdp

import (
	"net/netip"
	"testing"

	"shoal/bpf"
)

// What comes from other machines with the address of a pod of this host is
// dropped, unless a router returned a call of a service whose backend is
// elsewhere.
func TestOwnPodsFromOutside(t *testing.T) {
	l, d := natLab(t, "10.64.8.7:80")
	_, ip := l.pod(d, "victim")
	_, other := l.pod(d, "other")
	l.must(d.SetService(Service{Key: "near", Proto: TCP, Frontends: []Frontend{{Port: 30081}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(other, 80)}}}))
	uplink := l.linkIndex(d, labUplink)
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
