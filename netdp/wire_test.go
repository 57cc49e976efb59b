package netdp

import (
	"encoding/binary"
	"net/netip"
)

// wire is a frame as its receiver reads it: written from the RFCs and not from the
// programs, so that it can judge what these read and write.
type wire struct {
	fault           string // empty: a stack would take its headers
	v6              bool
	src, dst        netip.Addr
	proto           Proto
	ip, transport   int // offsets in the frame
	end             int // of what the IP header says
	first, later    bool
	id              uint32
	offset          int // of a fragment, in bytes
	sport, dport    uint16
	flags           byte
	kind            byte // of ICMP
	ipSum, sum      bool // right, or not there
	sumAt           int  // offset of the transport's checksum, 0: none
	extensionsFault bool
}

const wireMaxLength = 65535

// readWire reads a frame whose EtherType says IPv4 or IPv6; ok is false for others.
func readWire(b []byte) (w wire, ok bool) {
	if len(b) < ethLen {
		return w, false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0800:
		w = readIPv4(b, ethLen)
	case 0x86dd:
		w = readIPv6(b, ethLen)
	default:
		return w, false
	}
	if w.fault == "" && !w.later {
		w.fault = w.readTransport(b)
	}
	if w.fault == "" && w.later && !w.v6 && w.proto == TCP && w.offset < 20 {
		w.fault = "fragment over the TCP header" // RFC 3128
	}
	return w, true
}

func readIPv4(b []byte, at int) wire {
	w := wire{ip: at}
	ip := b[at:]
	if len(ip) < 20 || ip[0]>>4 != 4 || ip[0]&15 < 5 || int(ip[0]&15)*4 > len(ip) {
		w.fault = "IPv4 header"
		return w
	}
	header, length := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	w.src, w.dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	w.proto, w.transport, w.end = Proto(ip[9]), at+header, at+length
	w.ipSum = sum(ip[:header]) == 0xffff
	if length < header || length > len(ip) {
		w.fault = "IPv4 length"
	}
	part := binary.BigEndian.Uint16(ip[6:])
	w.offset, w.id = int(part&0x1fff)*8, uint32(binary.BigEndian.Uint16(ip[4:]))
	w.later, w.first = w.offset > 0, w.offset == 0 && part&0x2000 != 0
	return w
}

func readIPv6(b []byte, at int) wire {
	w := wire{ip: at, v6: true, ipSum: true}
	ip := b[at:]
	if len(ip) < 40 || ip[0]>>4 != 6 {
		w.fault = "IPv6 header"
		return w
	}
	w.src, w.dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	length := int(binary.BigEndian.Uint16(ip[4:]))
	w.end, w.transport, w.proto = at+40+length, at+40, Proto(ip[6])
	if length == 0 || w.end > len(b) {
		w.fault = "IPv6 length"
	}
	if w.src.Is4In6() || w.dst.Is4In6() {
		w.fault = "IPv4 in an IPv6 header" // RFC 4038, section 4.2
	}
	for range 6 { // as many as RFC 8200 names
		if w.proto != 0 && w.proto != 43 && w.proto != 44 && w.proto != 60 {
			break
		}
		if w.transport+8 > min(len(b), w.end) {
			w.fault, w.extensionsFault = "extension header", true
			return w
		}
		ext := b[w.transport:]
		size := 8
		if w.proto == 44 {
			part := binary.BigEndian.Uint16(ext[2:])
			w.offset, w.id = int(part&0xfff8), binary.BigEndian.Uint32(ext[4:])
			w.later, w.first = w.offset > 0, w.offset == 0 && part&1 != 0
		} else {
			size += int(ext[1]) * 8
		}
		w.proto, w.transport = Proto(ext[0]), w.transport+size
		if w.later {
			break
		}
	}
	if w.transport > w.end && w.fault == "" {
		w.fault, w.extensionsFault = "extension header", true
	}
	return w
}

// isICMP tells whether it is its family's ICMP.
func (w *wire) isICMP() bool { return w.proto == icmpOf(w.v6) }

// readTransport reads ports and checksum, and returns what is wrong.
func (w *wire) readTransport(b []byte) string {
	b = b[:w.end]
	t := b[w.transport:]
	switch {
	case w.proto == TCP:
		if len(t) < 20 || t[12]>>4 < 5 || int(t[12]>>4)*4 > len(t) {
			return "TCP header"
		}
		w.flags, w.sumAt = t[13], w.transport+16
	case w.proto == UDP:
		if len(t) < 8 {
			return "UDP header"
		}
		length := int(binary.BigEndian.Uint16(t[4:]))
		if length < 8 || length > len(t) && !w.first {
			return "UDP length"
		}
		w.sumAt = w.transport + 6
		if !w.first {
			t = t[:length]
		}
	case w.isICMP():
		if len(t) < 8 {
			return "ICMP header"
		}
		w.kind, w.sumAt = t[0], w.transport+2
	default:
		w.sum = true
		return ""
	}
	if w.proto == TCP || w.proto == UDP {
		w.sport, w.dport = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	}
	w.sum = !w.first && w.sumOf(t) == 0xffff
	if w.proto == UDP && t[6] == 0 && t[7] == 0 {
		w.sum = !w.v6 // RFC 768: none; RFC 8200 section 8.1: not allowed
	}
	return ""
}

// sumOf is the sum over transport header and data, with the pseudo header where
// there is one.
func (w *wire) sumOf(t []byte) uint16 {
	if w.proto == protoICMP {
		return sum(t)
	}
	src, dst := netip.AddrPortFrom(w.src, 0), netip.AddrPortFrom(w.dst, 0)
	return sum(append(pseudo(src, dst, w.proto, len(t)), t...))
}

// isError tells whether it is an ICMP error that quotes a packet.
func (w *wire) isError() bool {
	if !w.isICMP() || w.later {
		return false
	}
	if w.v6 {
		return w.kind >= 1 && w.kind <= 4
	}
	return w.kind == 3 || w.kind == 11 || w.kind == 12
}

// quoted reads what an error quotes; its lengths say nothing.
func (w *wire) quoted(b []byte) wire {
	at := w.transport + 8
	padded := append(append([]byte(nil), b[:w.end]...), make([]byte, 100)...)
	var q wire
	if w.v6 {
		q = readIPv6(padded, at)
	} else {
		q = readIPv4(padded, at)
	}
	return q
}

// fixSums writes lengths that are right where fix says so, and the checksums.
func fixSums(b []byte, lengths bool) {
	if len(b) < ethLen+ipLen {
		return
	}
	if lengths && (b[ethLen]>>4 == 4 || len(b) >= ethLen+ipv6Len) && len(b)-ethLen <= wireMaxLength {
		fixLength(b)
	}
	w, ok := readWire(b)
	if !ok {
		return
	}
	if !w.v6 && w.transport != 0 {
		fixSum(b)
	}
	if w.fault == "UDP length" && lengths {
		binary.BigEndian.PutUint16(b[w.transport+4:], uint16(w.end-w.transport))
		w, _ = readWire(b)
	}
	if w.fault != "" || w.sumAt == 0 || w.first {
		return
	}
	t := b[w.transport:w.end]
	if w.proto == UDP {
		t = t[:binary.BigEndian.Uint16(t[4:])]
		if t[6] == 0 && t[7] == 0 && !w.v6 {
			return
		}
	}
	b[w.sumAt], b[w.sumAt+1] = 0, 0
	s := ^w.sumOf(t)
	if s == 0 && w.proto == UDP {
		s = 0xffff
	}
	binary.BigEndian.PutUint16(b[w.sumAt:], s)
}
