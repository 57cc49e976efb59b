package netdp

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"shoal/bpf"
)

var fuzzSeed = flag.Uint64("fuzzseed", 0, "seed of the mutated packets of TestMutatedPackets; 0: another one each time")

const (
	mutatedPackets = 12_000 // some seconds
	forgetAfter    = 500    // packets, so that no map is full
)

// mayReturn are a program's verdicts.
var mayReturn = map[string][]uint32{
	bpf.DatapathProgUplinkIngress:  {verdictPass, verdictDrop, verdictRedirect},
	bpf.DatapathProgUplinkEgress:   {verdictPass, verdictDrop},
	bpf.DatapathProgOverlayIngress: {verdictPass, verdictDrop, verdictRedirect},
	bpf.DatapathProgGatherIngress:  {verdictPass, verdictDrop, verdictRedirect},
	bpf.DatapathProgOverlayEgress:  {verdictPass, verdictDrop},
	bpf.DatapathProgPodEgress:      {verdictPass, verdictDrop, verdictRedirect},
	bpf.DatapathProgPodIngress:     {verdictPass, verdictDrop},
	bpf.DatapathProgToPod:          {verdictDrop, verdictRedirect},
}

// TestMutatedPackets gives every program packets that were valid before they were
// spoiled at random, and judges what comes out by what a receiver reads. A failure
// is repeated with -fuzzseed; `go test -fuzz FuzzPrograms ./netdp` goes on for longer.
func TestMutatedPackets(t *testing.T) {
	seed := *fuzzSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d; again with -fuzzseed %d", seed, seed)
	h := newFuzzHost(t)
	m := mutator{rand.New(rand.NewPCG(seed, 1))}
	met := map[string]int{}
	for i := range mutatedPackets {
		if i%forgetAfter == 0 {
			h.forget()
		}
		k := h.hooks[m.IntN(len(h.hooks))]
		switch i % 8 {
		case 0, 2, 4, 6:
			k = h.hooks[m.IntN(2)] // half at the uplink
		case 1:
			k = h.hooks[2+m.IntN(2)] // out of the tunnel and into it
		}
		in := m.spoil(h.packet(m, k))
		if k.tunnel {
			in = h.inTunnel(m, in)
		}
		h.check(t, k, in, met)
		if t.Failed() {
			t.Fatalf("packet %d", i)
		}
	}
	t.Log(met)
	for _, what := range []string{"well formed", "malformed", "changed", "dropped", "round trip", "denied", "into the tunnel", "out of the tunnel"} {
		if met[what] < mutatedPackets/200 {
			t.Errorf("%s: met only %d times, the packets say little", what, met[what])
		}
	}
}

// FuzzPrograms gives programs whatever bytes Go's own fuzzer thinks of.
func FuzzPrograms(f *testing.F) {
	h := newFuzzHost(f)
	m := mutator{rand.New(rand.NewPCG(1, 1))}
	for i, k := range h.hooks {
		for range 3 {
			b := h.packet(m, k)
			if k.tunnel {
				b = h.inTunnel(m, b)
			}
			f.Add(uint8(i), b)
		}
	}
	runs := 0
	f.Fuzz(func(t *testing.T, at uint8, packet []byte) {
		if len(packet) < ethLen || len(packet) > 2000 {
			return
		}
		h.t = t
		defer func() { h.t = f }()
		if runs++; runs%forgetAfter == 0 {
			h.forget()
		}
		h.check(t, h.hooks[int(at)%len(h.hooks)], packet, map[string]int{})
	})
}

// check gives a packet to a program, and says what is wrong with what it does.
func (h *fuzzHost) check(t *testing.T, k hook, in []byte, met map[string]int) {
	t.Helper()
	w, ip := readWire(in)
	had := 0
	if !ip || w.fault != "" || k.tunnel {
		had = h.entries()
	}
	verdict, out, ok := h.give(k, in)
	if !ok {
		return
	}
	drops := h.newDrops()
	note := func(what string, is bool) {
		if is {
			met[what]++
		}
	}
	bad := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s at %d, from device %d: %s\n%+v\nverdict %d, drops %v\nin  %x\nout %x", k.program, k.ifindex, k.received, fmt.Sprintf(format, args...), w, verdict, drops, in, out)
	}
	if !slices.Contains(mayReturn[k.program], verdict) {
		bad("returns a verdict it may not")
	}
	switch {
	case k.program == bpf.DatapathProgPodEgress && len(out) == len(in)+vxlanOverhead:
		note("into the tunnel", true)
		if what := putAmiss(in, out, labHostIP, fuzzFar, tosOf(in)); verdict != verdictRedirect || what != "" {
			bad("into the tunnel: %s", what)
		}
		out = out[vxlanOverhead:]
	case k.program == bpf.DatapathProgUplinkIngress && len(out) == len(in)-vxlanOverhead:
		note("out of the tunnel", true)
		if verdict == verdictPass {
			bad("goes on to the stack out of the tunnel")
		}
		in = in[vxlanOverhead:]
		w, ip = readWire(in)
	}
	if len(out) != len(in) {
		bad("changes the length from %d to %d", len(in), len(out))
		return
	}
	if what := dropsAmiss(verdict, drops); what != "" {
		bad("%s", what)
	}
	changed := !bytes.Equal(in[12:], out[12:])
	note("changed", changed)
	note("dropped", verdict == verdictDrop)
	note("well formed", ip && w.fault == "")
	if !ip || w.fault != "" {
		note("malformed", true)
		if n := h.entries(); n > had {
			bad("%d entries for a malformed packet", n-had)
		}
		if changed {
			bad("changes a malformed packet")
		}
	}
	if what := h.leak(k, verdict, ip, &w, in, out); what != "" {
		bad("%s", what)
	}
	note("denied", ip && w.src.IsValid() && h.denied(k, &w, in))
	if verdict == verdictDrop || !ip || w.fault != "" {
		return
	}
	if changed {
		if what := changedAmiss(&w, in, out); what != "" {
			bad("%s", what)
		}
	}
	if what, tried := h.roundTrip(k, verdict, &w, in, out); what != "" {
		bad("%s", what)
	} else {
		note("round trip", tried)
	}
}

// tosOf is what the tunnel's header says of congestion, by what is in it (RFC 6040).
func tosOf(b []byte) byte {
	tos := b[ethLen+1]
	if b[ethLen]>>4 == 6 {
		tos >>= 4
	}
	return map[byte]byte{0: 0, 1: 1, 2: 2, 3: 2}[tos&3]
}

// dropsAmiss compares a verdict with what was counted: one reason for what is
// dropped, and none for what is not. Of a service without backends the stack
// refuses callers.
func dropsAmiss(verdict uint32, drops map[string]uint64) string {
	var total uint64
	for _, n := range drops {
		total += n
	}
	switch {
	case verdict == verdictDrop && total != 1:
		return "is dropped, but counted otherwise"
	case verdict == verdictPass && total == 1 && drops["no-backend"] == 1:
	case verdict != verdictDrop && total != 0:
		return "is counted as dropped, but is not"
	}
	return ""
}

// leak says what went where it may not: past policy, with somebody else's address,
// or with a pod's into the world.
func (h *fuzzHost) leak(k hook, verdict uint32, ip bool, w *wire, in, out []byte) string {
	if verdict == verdictDrop {
		return ""
	}
	if k.program == bpf.DatapathProgPodEgress {
		switch {
		case !ip && binary.BigEndian.Uint16(in[12:]) != 0x0806:
			return "a pod sends another family than IP and ARP"
		case ip && !w.src.IsValid():
			return "a pod sends a packet without a whole header"
		case ip && h.linkOf(w.src) != k.ifindex && !w.isNeighbourDiscovery():
			return "a pod sends with somebody else's address"
		case ip && (w.fault == "IPv4 length" || w.fault == "IPv6 length"):
			return "a pod sends a packet of another length than it says"
		}
	}
	if !ip || !w.src.IsValid() {
		return ""
	}
	if h.denied(k, w, in) {
		return "goes past policy"
	}
	o, _ := readWire(out)
	if name := h.owner[o.dst]; verdict == verdictRedirect && name == "closed" && k.program != bpf.DatapathProgPodEgress &&
		h.owner[w.src] != "friend" && !w.isError() && w.src.String() != labHostIP && w.src.String() != labHostIP6 {
		return "goes past policy to the isolated pod"
	}
	world := w.dst == netip.MustParseAddr(fuzzWorld) || w.dst == netip.MustParseAddr(fuzzWorld6)
	if k.program == bpf.DatapathProgUplinkEgress && world && h.owner[o.src] != "" &&
		(w.fault != "" || w.proto != TCP || !w.later && !w.first && w.flags&(flagSYN|flagACK) == flagSYN) {
		return "leaves with a pod's own address"
	}
	return ""
}

func (h *fuzzHost) linkOf(addr netip.Addr) int {
	name, ok := h.owner[addr]
	if !ok {
		return 0
	}
	return h.linkIndex(h.d, hostLinkName(name))
}

// isNeighbourDiscovery tells whether it is for the link alone (RFC 4861), as far as
// a pod may send it.
func (w *wire) isNeighbourDiscovery() bool {
	return w.v6 && w.proto == protoICMPv6 && (w.dst.IsLinkLocalUnicast() || w.dst.IsLinkLocalMulticast())
}

// denied tells whether policy forbids a packet for what it is, whatever came before:
// of closed, only friend may know anything.
func (h *fuzzHost) denied(k hook, w *wire, in []byte) bool {
	from, to := h.owner[w.src], h.owner[w.dst]
	if from == to || from != "closed" && to != "closed" {
		return false
	}
	switch k.program {
	case bpf.DatapathProgPodEgress:
		if h.linkOf(w.src) != k.ifindex {
			return false // spoofed; see leak
		}
	case bpf.DatapathProgToPod, bpf.DatapathProgPodIngress:
		if k.received == 0 || to != "closed" {
			return false
		}
	default:
		return false
	}
	if w.fault != "" {
		return true
	}
	for _, end := range []netip.Addr{w.src, w.dst} {
		if node := end.String(); node == labHostIP || node == labHostIP6 {
			return false // every pod may call its node, and is answered
		}
	}
	if to == "closed" && w.isError() {
		q := w.quoted(in)
		return h.owner[q.src] != "closed"
	}
	if from == "closed" {
		return to != "friend"
	}
	if from != "friend" {
		return true
	}
	switch {
	case w.later || w.isError():
		return false // judged by what came before; see TestFragmentsPastPolicy
	case w.proto == TCP && w.flags&(flagSYN|flagACK) == flagSYN:
		return w.dport != 80
	case w.proto == TCP:
		return w.dport != 80 && w.sport != 443
	case w.proto == UDP:
		return w.dport < 1000 || w.dport > 1999
	}
	return w.proto != protoSCTP
}

// changedAmiss compares a packet that was changed with what it was: only addresses,
// ports and numbers, their checksums, hop limits and marks may differ, there and in
// what an error quotes; and a checksum that was right still is.
func changedAmiss(w *wire, in, out []byte) string {
	o, ok := readWire(out)
	if !ok || o.fault != "" {
		return "makes it malformed: " + o.fault
	}
	if w.ipSum && !o.ipSum {
		return "spoils the IP header's checksum"
	}
	if w.sum && !o.sum {
		return "spoils the transport's checksum"
	}
	may := make([]bool, len(in))
	mayChange(may, w)
	if w.isError() {
		q := w.quoted(in)
		mayChange(may, &q)
		if q.transport != 0 && q.transport+8 <= w.end && !w.first {
			before, after := w.quoted(in), o.quoted(out)
			if before.ipSum && !after.ipSum {
				return "spoils the checksum of the header that is quoted"
			}
		}
	}
	for i := 12; i < len(in); i++ {
		if in[i] != out[i] && !may[i] {
			return fmt.Sprintf("changes byte %d", i)
		}
	}
	return ""
}

// mayChange marks the bytes of a packet's headers that a translation changes.
func mayChange(may []bool, w *wire) {
	mark := func(at, n int) {
		for i := max(at, 0); i < min(at+n, len(may)); i++ {
			may[i] = true
		}
	}
	if w.v6 {
		mark(w.ip, 2)
		mark(w.ip+7, 33)
	} else {
		mark(w.ip+1, 1)
		mark(w.ip+8, 1)
		mark(w.ip+10, 10)
	}
	if w.later {
		return
	}
	switch {
	case w.isICMP():
		mark(w.transport+2, 4)
	case w.proto == TCP:
		mark(w.transport, 4)
		mark(w.transport+16, 2)
	case w.proto == UDP:
		mark(w.transport, 4)
		mark(w.transport+6, 2)
	}
}

// roundTrip answers a call that a program translated, and compares what becomes of
// the answer with the call: the ends are those of the call, the data that of the
// answer.
func (h *fuzzHost) roundTrip(k hook, verdict uint32, w *wire, in, out []byte) (what string, tried bool) {
	call := w.proto == UDP || w.proto == TCP && w.flags&(flagSYN|flagACK|0x05) == flagSYN || w.isICMP() && (w.kind == 8 || w.kind == 128)
	if !call || w.first || w.later || !w.sum || !w.ipSum {
		return "", false
	}
	o, _ := readWire(out)
	back := hook{program: bpf.DatapathProgUplinkIngress, ifindex: k.ifindex, received: k.ifindex}
	wantVerdict := uint32(verdictRedirect)
	switch {
	case k.program == bpf.DatapathProgUplinkEgress && h.owner[w.src] == "open" && o.src != w.src:
	case k.program == bpf.DatapathProgUplinkIngress && o.dst != w.dst && h.owner[o.dst] == "open":
		back.program, back.received, wantVerdict = bpf.DatapathProgUplinkEgress, 0, verdictPass
	default:
		return "", false
	}
	answer := answerTo(out, &o)
	copy(answer, h.uplink[:])
	got, translated, _ := h.give(back, answer)
	h.newDrops()
	r, _ := readWire(translated)
	if got != wantVerdict || r.src != w.dst || r.dst != w.src || r.fault != "" || !r.sum || !r.ipSum {
		return fmt.Sprintf("the answer %x gets verdict %d and becomes %+v", answer, got, r), true
	}
	if !w.isICMP() && (r.sport != w.dport || r.dport != w.sport) {
		return fmt.Sprintf("the answer goes from port %d to %d", r.sport, r.dport), true
	}
	if w.isICMP() && !bytes.Equal(translated[r.transport+4:r.transport+6], in[w.transport+4:w.transport+6]) {
		return "the answer has another number", true
	}
	a, _ := readWire(answer)
	if what := changedAmiss(&a, answer, translated); what != "" {
		return "of the answer: " + what, true
	}
	return "", true
}

// answerTo turns a packet round.
func answerTo(b []byte, w *wire) []byte {
	b = bytes.Clone(b)
	at, size := w.ip+12, 4
	if w.v6 {
		at, size = w.ip+8, 16
	}
	copy(b[at:], w.dst.AsSlice())
	copy(b[at+size:], w.src.AsSlice())
	t := b[w.transport:]
	switch {
	case w.isICMP():
		t[0] = map[byte]byte{8: 0, 128: 129}[t[0]]
	case w.proto == TCP:
		t[13] = flagSYN | flagACK
		fallthrough
	default:
		binary.BigEndian.PutUint16(t, w.dport)
		binary.BigEndian.PutUint16(t[2:], w.sport)
	}
	fixSums(b, false)
	return b
}
