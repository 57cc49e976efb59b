package netdp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
)

// frame describes an Ethernet frame with IPv4 or IPv6 and TCP or UDP in it.
type frame struct {
	src, dst string // address:port
	proto    Proto
	flags    byte   // of TCP
	seq      uint32 // of TCP
	options  int    // bytes of IP options, a multiple of four; of IPv6 of eight
	fragment uint16 // as in the header of IPv4
	noSum    bool   // UDP without a checksum
	payload  string
}

const (
	flagSYN = 0x02
	flagACK = 0x10

	ethLen = 14
	ipLen  = 20
)

func (f frame) bytes() []byte {
	src, dst := netip.MustParseAddrPort(f.src), netip.MustParseAddrPort(f.dst)
	return f.around(src, dst, f.transport(src, dst))
}

// around puts Ethernet and IP headers before what they carry.
func (f frame) around(src, dst netip.AddrPort, transport []byte) []byte {
	if src.Addr().Is6() {
		return f.ipv6(src, dst, transport)
	}
	ip := make([]byte, ipLen+f.options)
	ip[0] = 0x40 | byte(len(ip)/4)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(transport)))
	binary.BigEndian.PutUint16(ip[6:], f.fragment)
	ip[8], ip[9] = 64, byte(f.proto)
	copy(ip[12:], src.Addr().AsSlice())
	copy(ip[16:], dst.Addr().AsSlice())
	for i := ipLen; i < len(ip); i++ {
		ip[i] = 1 // no operation
	}
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip))
	eth := append(bytes.Repeat([]byte{2}, 12), 0x08, 0x00)
	return bytes.Join([][]byte{eth, ip, transport}, nil)
}

const (
	ipv6Len         = 40
	ipv6Fragment    = 44
	ipv6Destination = 60
)

// ipv6 has its options in a header for the destination, and then the fragment's.
func (f frame) ipv6(src, dst netip.AddrPort, transport []byte) []byte {
	next, extensions := byte(f.proto), []byte(nil)
	if f.fragment != 0 {
		extensions = []byte{next, 0, 0, 0, 0, 0, 0, 99}
		binary.BigEndian.PutUint16(extensions[2:], f.fragment<<3|f.fragment>>13&1)
		next = ipv6Fragment
	}
	if f.options > 0 {
		options := make([]byte, f.options) // of padding: Pad1
		options[0], options[1] = next, byte(f.options/8-1)
		extensions = slices.Concat(options, extensions)
		next = ipv6Destination
	}
	ip := make([]byte, ipv6Len)
	ip[0], ip[6], ip[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(len(extensions)+len(transport)))
	copy(ip[8:], src.Addr().AsSlice())
	copy(ip[24:], dst.Addr().AsSlice())
	eth := append(bytes.Repeat([]byte{2}, 12), 0x86, 0xdd)
	return bytes.Join([][]byte{eth, ip, extensions, transport}, nil)
}

func (f frame) transport(src, dst netip.AddrPort) []byte {
	length, checksum := 8, 6
	if f.proto == TCP {
		length, checksum = 20, 16
	}
	b := make([]byte, length, length+len(f.payload))
	binary.BigEndian.PutUint16(b[0:], src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	if f.proto == TCP {
		binary.BigEndian.PutUint32(b[4:], f.seq)
		b[12], b[13] = 0x50, f.flags
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(length+len(f.payload)))
	}
	b = append(b, f.payload...)
	if !f.noSum {
		binary.BigEndian.PutUint16(b[checksum:], ^sum(append(pseudo(src, dst, f.proto, len(b)), b...)))
	}
	return b
}

func pseudo(src, dst netip.AddrPort, proto Proto, length int) []byte {
	b := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	return append(b, 0, byte(proto), byte(length>>8), byte(length))
}

const (
	protoICMP   = Proto(1)
	protoICMPv6 = Proto(58)
)

// icmp puts a message between the ends of f, ports aside, and writes its checksum:
// that of IPv6 covers the addresses too.
func (f frame) icmp(message []byte) []byte {
	src, dst := netip.MustParseAddrPort(f.src), netip.MustParseAddrPort(f.dst)
	f.proto = protoICMP
	message[2], message[3] = 0, 0
	head := []byte(nil)
	if src.Addr().Is6() {
		f.proto = protoICMPv6
		head = pseudo(src, dst, protoICMPv6, len(message))
	}
	binary.BigEndian.PutUint16(message[2:], ^sum(append(head, message...)))
	return f.around(src, dst, message)
}

// echo asks or answers between the ends of a frame; its number is the caller's port.
func echo(f frame, reply bool) []byte {
	src, dst := netip.MustParseAddrPort(f.src), netip.MustParseAddrPort(f.dst)
	message := []byte{8, 0, 0, 0, 0, 0, 0, 1, 'p', 'i', 'n', 'g'}
	if src.Addr().Is6() {
		message[0] = 128
	}
	binary.BigEndian.PutUint16(message[4:], src.Port())
	if reply {
		message[0] = map[bool]byte{false: 0, true: 129}[src.Addr().Is6()]
		binary.BigEndian.PutUint16(message[4:], dst.Port())
	}
	return f.icmp(message)
}

// errorAbout is what a machine at from says to the sender of packet: with eight
// bytes after the header of IPv4 (RFC 792), and all of IPv6's (RFC 4443).
func errorAbout(kind, code byte, from string, packet []byte) []byte {
	src, _, _, _ := partsOf(packet[ethLen:])
	quoted := packet[ethLen:]
	if quoted[0]>>4 == 4 {
		quoted = quoted[:min(len(quoted), int(quoted[0]&0x0f)*4+8)]
	}
	f := frame{src: netip.AddrPortFrom(netip.MustParseAddr(from), 0).String(), dst: netip.AddrPortFrom(src, 0).String()}
	return f.icmp(append([]byte{kind, code, 0, 0, 0, 0, 5, 0}, quoted...))
}

// tooLarge says that a link takes 1,280 bytes.
func tooLarge(from string, packet []byte) []byte {
	if packet[ethLen]>>4 == 6 {
		return errorAbout(2, 0, from, packet)
	}
	return errorAbout(3, 4, from, packet)
}

// toAddr sends an ICMP message to another address, whatever it quotes.
func toAddr(packet []byte, addr string) []byte {
	src, _, _, message := partsOf(packet[ethLen:])
	f := frame{src: netip.AddrPortFrom(src, 0).String(), dst: netip.AddrPortFrom(netip.MustParseAddr(addr), 0).String()}
	return f.icmp(append([]byte(nil), message...))
}

// sum is the Internet checksum before it is inverted (RFC 1071).
func sum(b []byte) uint16 {
	if len(b)%2 == 1 {
		b = append(bytes.Clone(b), 0)
	}
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
