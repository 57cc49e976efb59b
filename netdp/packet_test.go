package netdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// frame describes an Ethernet frame with IPv4 or IPv6 and TCP or UDP in it.
type frame struct {
	src, dst string // address:port
	proto    Proto
	flags    byte   // of TCP
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
	transport := f.transport(src, dst)
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
		extensions = append(options, extensions...)
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

// partsOf reads the addresses of an IP packet, its protocol and what follows the
// header and its extensions.
func partsOf(ip []byte) (src, dst netip.Addr, proto Proto, transport []byte) {
	from, to := ip[12:16], ip[16:20]
	if ip[0]>>4 == 4 {
		proto, transport = Proto(ip[9]), ip[int(ip[0]&0x0f)*4:]
	} else {
		from, to = ip[8:24], ip[24:40]
		proto, transport = Proto(ip[6]), ip[ipv6Len:]
		for proto == ipv6Fragment || proto == ipv6Destination {
			proto, transport = Proto(transport[0]), transport[int(transport[1])*8+8:]
		}
	}
	src, _ = netip.AddrFromSlice(from)
	dst, _ = netip.AddrFromSlice(to)
	return src, dst, proto, transport
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

// describe prints addresses and ports of a frame, and what is wrong with it.
func describe(b []byte) string {
	ip := b[ethLen:]
	from, to, proto, transport := partsOf(ip)
	src := netip.AddrPortFrom(from, binary.BigEndian.Uint16(transport))
	dst := netip.AddrPortFrom(to, binary.BigEndian.Uint16(transport[2:]))
	out := fmt.Sprintf("%s %s > %s", proto, src, dst)
	if ip[0]>>4 == 4 && sum(ip[:len(ip)-len(transport)]) != 0xffff {
		out += " bad IP checksum"
	}
	noSum := proto == UDP && transport[6] == 0 && transport[7] == 0
	if noSum {
		out += " no checksum"
	} else if sum(append(pseudo(src, dst, proto, len(transport)), transport...)) != 0xffff {
		out += " bad checksum"
	}
	return out
}
