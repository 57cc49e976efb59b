package netdp

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"shoal/bpf"
)

// part is a fragment of a datagram, as it is in a frame.
type part struct {
	id     uint32
	proto  Proto // as its header says
	offset int   // in bytes
	more   bool
	data   []byte
}

func (p part) frame(src, dst netip.Addr) []byte {
	f := frame{proto: p.proto, fragment: uint16(p.offset / 8)}
	if p.more {
		f.fragment |= 0x2000
	}
	b := f.around(netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0), p.data)
	if src.Is4() {
		binary.BigEndian.PutUint16(b[ethLen+4:], uint16(p.id))
		fixSum(b)
	} else if f.fragment != 0 {
		binary.BigEndian.PutUint32(b[ethLen+ipv6Len+4:], p.id)
	}
	return b
}

// datagram is one from friend that policy allows or not, with what IPv6 may put
// before its transport header.
func (m mutator) datagram(v6 bool) (proto Proto, data []byte) {
	proto = Proto(m.of(int(TCP), int(UDP), int(UDP)))
	f := frame{proto: proto, flags: flagSYN, noSum: true, payload: string(make([]byte, 8*m.IntN(6)))}
	src, dst := netip.MustParseAddrPort("192.0.2.1:5"), netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), uint16(m.of(80, 1000, 1999, 81, 22, 2000)))
	data = f.transport(src, dst)
	if v6 && m.IntN(3) == 0 {
		data = append([]byte{byte(proto), 0, 1, 4, 0, 0, 0, 0}, data...)
		proto = ipv6Destination
	}
	return proto, data
}

// parts cuts a datagram, mostly where it hurts: within headers; and says now and
// then something else than it should.
func (m mutator) parts(id uint32, proto Proto, data []byte) (out []part) {
	for at := 0; at < len(data); {
		n := min(len(data)-at, 8*m.of(1, 1, 2, 3, 5))
		p := part{id, proto, at, at+n < len(data), data[at : at+n]}
		switch m.IntN(12) {
		case 0:
			p.offset += 8 * m.of(-1, 1) // overlaps, or leaves a hole
			p.offset = max(p.offset, 0)
		case 1:
			p.proto = Proto(m.of(int(TCP), int(UDP), ipv6Destination, 59))
		case 2:
			p.more = !p.more
		case 3:
			p.id++
		}
		out = append(out, p)
		at += n
	}
	return out
}

// reassembled is what a receiver makes of the parts that came, in that order. Where they
// overlap, the first or the last may win; Linux takes neither and drops all, as IPv6
// requires (RFC 5722).
func reassembled(parts []part, lastWins, dropOverlap bool) (data []byte, ok bool) {
	end, buf, have := -1, make([]byte, 4096), make([]bool, 4096)
	for _, p := range parts {
		if !p.more {
			end = p.offset + len(p.data)
		}
		for i, b := range p.data {
			at := p.offset + i
			if have[at] && dropOverlap {
				return nil, false
			}
			if !have[at] || lastWins {
				buf[at], have[at] = b, true
			}
		}
	}
	if end < 0 {
		return nil, false
	}
	for _, h := range have[:end] {
		if !h {
			return nil, false
		}
	}
	return buf[:end], true
}

// forbidden tells whether a datagram for closed is one that friend may not send.
func forbidden(proto Proto, data []byte) bool {
	if proto == ipv6Destination && len(data) >= 8 {
		proto, data = Proto(data[0]), data[8*(int(data[1])+1):]
	}
	if len(data) < 8 {
		return false // no transport header: nobody gets it
	}
	port := binary.BigEndian.Uint16(data[2:])
	switch proto {
	case TCP:
		return port != 80
	case UDP:
		return port < 1000 || port > 1999
	}
	return false // of no protocol that anybody serves
}

// TestFragmentsPastPolicy sends datagrams in parts that are tiny, overlap, come in
// any order, share a number or contradict each other: whatever a receiver joins of
// those that pass, it is nothing that policy forbids.
func TestFragmentsPastPolicy(t *testing.T) {
	const datagrams = 3000
	seed := *fuzzSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d; again with -fuzzseed %d", seed, seed)
	h := newFuzzHost(t)
	m := mutator{rand.New(rand.NewPCG(seed, 2))}
	link := h.linkIndex(h.d, hostLinkName("friend"))
	k := hook{program: bpf.DatapathProgPodEgress, ifindex: link, received: link}
	whole, held := 0, 0
	for i := range datagrams {
		family := i % 2
		src, dst := h.pods["friend"][family], h.pods["closed"][family]
		id := uint32(i*4 + 1)
		var sent []part
		for range m.of(1, 1, 2) { // of the same number
			proto, data := m.datagram(family == 1)
			sent = append(sent, m.parts(id, proto, data)...)
		}
		if m.IntN(2) == 0 {
			m.Shuffle(len(sent), func(a, b int) { sent[a], sent[b] = sent[b], sent[a] })
		}
		got := map[uint32][]part{} // by number, and of IPv4 by protocol
		for _, p := range sent {
			verdict, _, ok := h.give(k, p.frame(src, dst))
			if !ok || verdict == verdictDrop {
				held++
				continue
			}
			if p.offset == 0 && !p.more {
				if forbidden(p.proto, p.data) {
					t.Fatalf("datagram %d: whole, %+v", i, p)
				}
				continue
			}
			number := p.id
			if family == 0 {
				number |= uint32(p.proto) << 24
			}
			got[number] = append(got[number], p)
		}
		for _, parts := range got {
			for _, way := range []struct{ last, drop bool }{{false, false}, {true, false}, {false, true}} {
				if family == 1 && !way.drop {
					continue
				}
				data, ok := reassembled(parts, way.last, way.drop)
				if !ok {
					continue
				}
				whole++
				if proto := protoOf(parts, family == 1); forbidden(proto, data) {
					t.Fatalf("datagram %d: last wins %t: protocol %d, %x of %+v", i, way.last, proto, data, parts)
				}
			}
		}
	}
	t.Logf("%d joined, %d parts held", whole, held)
	if whole < datagrams/20 || held < datagrams/20 {
		t.Errorf("%d joined, %d parts held: the datagrams say little", whole, held)
	}
}

// protoOf is the protocol of a datagram: IPv6 says it in the part that begins it.
func protoOf(parts []part, v6 bool) Proto {
	for _, p := range parts {
		if v6 && p.offset == 0 {
			return p.proto
		}
	}
	return parts[0].proto
}
