package netdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// frame describes an Ethernet frame with IPv4 and TCP or UDP in it.
type frame struct {
	src, dst string // address:port
	proto    Proto
	flags    byte // of TCP
	options  int  // bytes of IP options, a multiple of four
	fragment uint16
	noSum    bool // UDP without a checksum
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
	length := int(ip[0]&0x0f) * 4
	transport, proto := ip[length:], Proto(ip[9])
	addr := func(at, port int) netip.AddrPort {
		a, _ := netip.AddrFromSlice(ip[at : at+4])
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(transport[port:]))
	}
	src, dst := addr(12, 0), addr(16, 2)
	out := fmt.Sprintf("%s %s > %s", proto, src, dst)
	if sum(ip[:length]) != 0xffff {
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
