package netdp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

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

// describeICMP prints an echo, or what an error quotes, and what is wrong with it.
func describeICMP(b []byte) string {
	ip := b[ethLen:]
	src, dst, proto, message := partsOf(ip)
	name, head := "ICMP", []byte(nil)
	if proto == protoICMPv6 {
		name, head = "ICMPv6", pseudo(netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0), proto, len(message))
	}
	out := fmt.Sprintf("%s %s > %s", name, src, dst)
	if proto == protoICMP && sum(ip[:len(ip)-len(message)]) != 0xffff {
		out += " bad IP checksum"
	}
	if sum(append(head, message...)) != 0xffff {
		out += " bad ICMP checksum"
	}
	if kind := message[0]; kind == 0 || kind == 8 || kind >= 128 {
		return out + fmt.Sprintf(" number %d", number(b))
	}
	quoted := message[8:]
	from, to, _, start := partsOf(quoted)
	if quoted[0]>>4 == 4 && sum(quoted[:len(quoted)-len(start)]) != 0xffff {
		out += " bad quoted checksum"
	}
	return out + fmt.Sprintf(" about %s > %s", netip.AddrPortFrom(from, binary.BigEndian.Uint16(start)),
		netip.AddrPortFrom(to, binary.BigEndian.Uint16(start[2:])))
}

// number is the number of an echo.
func number(b []byte) uint16 {
	_, _, _, message := partsOf(b[ethLen:])
	return binary.BigEndian.Uint16(message[4:])
}

// frameEnds reads source and destination of a frame with ports.
func frameEnds(b []byte) (src, dst netip.AddrPort) {
	from, to, _, transport := partsOf(b[ethLen:])
	return netip.AddrPortFrom(from, binary.BigEndian.Uint16(transport)), netip.AddrPortFrom(to, binary.BigEndian.Uint16(transport[2:]))
}
