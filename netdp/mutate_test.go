package netdp

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// mutator makes packets that are valid, and then spoils them at random: it knows
// where the fields are.
type mutator struct{ *rand.Rand }

func (m mutator) of(from ...int) int { return from[m.IntN(len(from))] }

// packet is valid: TCP, UDP, an echo, another protocol, or an error about one.
func (m mutator) packet(src, dst netip.AddrPort) []byte {
	f := frame{src: src.String(), dst: dst.String(), proto: TCP, flags: byte(m.of(flagSYN, flagSYN, flagACK, flagSYN|flagACK, 0x11, 0x04)),
		payload: string(make([]byte, m.of(0, 1, 7, 32)))}
	if m.IntN(4) == 0 {
		f.options = 8 * m.of(1, 2, 4)
	}
	switch m.IntN(8) {
	case 0, 1, 2:
		return f.bytes()
	case 3, 4:
		f.proto, f.noSum = UDP, m.IntN(5) == 0 && src.Addr().Is4()
		return f.bytes()
	case 5:
		return echo(f, m.IntN(2) == 0)
	case 6:
		f.proto = Proto(m.of(132, 47, 1, 58, 51, 59))
		return f.bytes()
	}
	back := frame{src: dst.String(), dst: src.String(), proto: Proto(m.of(6, 17)), payload: "payload"}
	about := back.bytes()
	if m.IntN(4) == 0 {
		about = errorAbout(byte(m.of(1, 3)), 0, src.Addr().String(), about) // an error about an error
	}
	b := errorAbout(byte(m.of(1, 2, 3, 4, 11, 12)), byte(m.IntN(5)), src.Addr().String(), about)
	copy(b[ethLen:], rewriteDst(b[ethLen:], dst.Addr()))
	fixSums(b, false)
	return b
}

// rewriteDst changes the destination of an IP header.
func rewriteDst(ip []byte, dst netip.Addr) []byte {
	ip = bytes.Clone(ip)
	if dst.Is4() {
		copy(ip[16:20], dst.AsSlice())
	} else {
		copy(ip[24:40], dst.AsSlice())
	}
	return ip
}

// spoil changes a packet in up to four ways. Lengths and checksums are mostly made
// right again, so that what is wrong is looked at and not the sum.
func (m mutator) spoil(b []byte) []byte {
	for range m.of(0, 1, 1, 1, 2, 2, 3, 4) {
		b = m.once(bytes.Clone(b))
	}
	if m.IntN(10) > 0 {
		fixSums(b, m.IntN(3) > 0)
	}
	return b
}

func (m mutator) once(b []byte) []byte {
	w, ok := readWire(b)
	at := min(max(w.transport, ethLen), len(b)-1)
	switch m.IntN(14) {
	case 0:
		return b[:min(len(b), ethLen+m.IntN(len(b)-ethLen+1))]
	case 1:
		return append(b, make([]byte, m.of(1, 8, 40, 300))...)
	case 2:
		b[m.IntN(len(b))] = byte(m.Uint32())
	case 3: // a field of the IP header that says a length or a kind
		m.put(b, ethLen+m.of(0, 2, 4, 6, 8))
	case 4: // of the transport header
		m.put(b, at+m.of(0, 2, 4, 6, 12))
	case 5: // a VLAN tag, or two
		tag := []byte{0x81, 0x00, 0x00, byte(m.of(0, 5))}
		return slices.Insert(b, 12, bytes.Repeat(tag, m.of(1, 2))...)
	case 6:
		binary.BigEndian.PutUint16(b[12:], uint16(m.of(0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x0004, 0x8847)))
	case 7, 8:
		if ok && w.v6 {
			return m.extend(b)
		}
		if ok {
			return m.options(b)
		}
	case 9, 10:
		if ok && !w.v6 && len(b) >= ethLen+ipLen {
			binary.BigEndian.PutUint16(b[ethLen+6:], uint16(m.of(0, 0x2000, 0x2001, 0x0001, 0x0002, 0x000a, 0x1fff, 0x3fff, 0x4000, 0x8000)))
		}
	case 11: // within VXLAN, once or twice
		for range m.of(1, 1, 2) {
			b = m.tunnelled(b)
		}
	case 12:
		m.address(b, w, ok)
	case 13: // cut within the transport header, with lengths that say so
		if ok {
			b = b[:min(len(b), at+m.IntN(24))]
			fixSums(b, true)
		}
	}
	return b
}

func (m mutator) put(b []byte, at int) {
	if at+2 > len(b) {
		return
	}
	v := m.of(0, 1, 7, 8, 20, 40, 0x2000, 0x4500, 0x4f00, 0x5000, 0x6000, 0xf002, 0xfff8, 0xffff, int(m.Uint32()&0xffff))
	if m.IntN(2) == 0 {
		b[at] = byte(v >> m.of(0, 8))
		return
	}
	binary.BigEndian.PutUint16(b[at:], uint16(v))
}

// extend puts extension headers before what an IPv6 packet carries.
func (m mutator) extend(b []byte) []byte {
	if len(b) < ethLen+ipv6Len {
		return b
	}
	next := b[ethLen+6]
	for range m.of(1, 1, 2, 3, 6, 8) {
		kind := byte(m.of(0, 43, 44, 44, 60, 60, 51, 135, 59))
		ext := make([]byte, 8+8*m.of(0, 0, 0, 1, 3))
		ext[0], ext[1] = next, byte(len(ext)/8-1)
		if kind == ipv6Fragment {
			ext = ext[:8]
			ext[1] = 0
			binary.BigEndian.PutUint16(ext[2:], uint16(m.of(0, 1, 1, 8, 9, 16, 80, 0xfff8, 0xfff9)))
			ext[7] = byte(m.of(1, 2))
		} else if m.IntN(6) == 0 {
			ext[1] = byte(m.of(0, 2, 31, 255))
		}
		b = slices.Insert(b, ethLen+ipv6Len, ext...)
		next = kind
	}
	b[ethLen+6] = next
	if m.IntN(4) > 0 {
		fixLength(b)
	}
	return b
}

// options puts options into an IPv4 header: nothing, a source route (RFC 791), or
// one that is cut off.
func (m mutator) options(b []byte) []byte {
	if len(b) < ethLen+ipLen {
		return b
	}
	length := int(b[ethLen]&0x0f) * 4
	if length < ipLen || length > 48 || len(b) < ethLen+length {
		return b
	}
	kinds := [][]byte{
		{1, 1, 1, 1, 1, 1, 1, 0}, {131, 7, 4, 203, 0, 113, 99, 0}, {137, 7, 4, 10, 64, 7, 3, 0}, {7, 255, 0, 0}, {68, 1, 0, 0},
	}
	o := kinds[m.IntN(len(kinds))]
	b = slices.Insert(b, ethLen+length, o...)
	b[ethLen] = 0x40 | byte((length+len(o))/4)
	if m.IntN(4) > 0 {
		fixLength(b)
	}
	return b
}

// tunnelled is the frame in VXLAN (RFC 7348) between the ends of the frame itself.
func (m mutator) tunnelled(b []byte) []byte {
	w, ok := readWire(b)
	if !ok || !w.src.IsValid() {
		return b
	}
	vxlan := append([]byte{8, 0, 0, 0, 0, 0, byte(m.of(0, 1)), 0}, b...)
	return frame{src: netip.AddrPortFrom(w.src, 50000).String(), dst: netip.AddrPortFrom(w.dst, uint16(m.of(4789, DefaultVXLANPort))).String(),
		proto: UDP, payload: string(vxlan)}.bytes()
}

// address makes an end one that no packet has, or the other end's.
func (m mutator) address(b []byte, w wire, ok bool) {
	if !ok || !w.src.IsValid() {
		return
	}
	at, other, size := ethLen+m.of(12, 16), w.src, 4
	odd := []string{"0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", "169.254.1.1", labHostIP}
	if w.v6 {
		at, size = ethLen+m.of(8, 24), 16
		odd = []string{"::", "::1", "ff02::1", "fe80::1", "::ffff:198.18.0.1", "64:ff9b::c612:1", labHostIP6}
	}
	if i := m.IntN(len(odd) + 1); i < len(odd) {
		other = netip.MustParseAddr(odd[i])
	}
	copy(b[at:at+size], other.AsSlice())
}
