package announce

import (
	"encoding/binary"
	"net"
	"net/netip"
)

const (
	etherLen  = 14
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	arpLen           = 28
	arpRequest       = 1
	arpReply         = 2
	hardwareEthernet = 1
	etherIPv4        = 0x0800

	ip6Len         = 40
	protoICMPv6    = 58
	neighbourLimit = 255 // RFC 4861, 7.1.1: from this link, as no router passes that on
	typeSolicit    = 135
	typeAdvertise  = 136
	solicitLen     = 24
	advertiseLen   = 32 // with one option
	optionTarget   = 2
	// Flags of an advertisement.
	flagSolicited = 0x40
	flagOverride  = 0x20
)

var (
	everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	// allNodes is ff02::1, and the Ethernet address of that group.
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
)

// question is who asks for what.
type question struct {
	target netip.Addr
	// asker and askerMAC are whom to tell. An asker without an address (it
	// looks whether the address is free, RFC 4862) is told by telling all.
	asker    netip.Addr
	askerMAC net.HardwareAddr
}

// parseQuestion reads an Ethernet frame with an ARP request or a neighbour
// solicitation; false: it is none, or not a good one.
func parseQuestion(frame []byte) (question, bool) {
	if len(frame) < etherLen {
		return question{}, false
	}
	from := net.HardwareAddr(frame[6:12])
	if from[0]&1 != 0 {
		return question{}, false // a group asks nothing
	}
	switch binary.BigEndian.Uint16(frame[12:14]) {
	case etherARP:
		return parseARP(frame[etherLen:], from)
	case etherIPv6:
		return parseSolicitation(frame[etherLen:], from)
	}
	return question{}, false
}

func parseARP(b []byte, from net.HardwareAddr) (question, bool) {
	if len(b) < arpLen || binary.BigEndian.Uint16(b) != hardwareEthernet || binary.BigEndian.Uint16(b[2:]) != etherIPv4 ||
		b[4] != 6 || b[5] != 4 || binary.BigEndian.Uint16(b[6:]) != arpRequest {
		return question{}, false
	}
	asker, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	if asker == target {
		return question{}, false // it tells, and does not ask
	}
	return question{target: target, asker: asker, askerMAC: from}, true
}

func parseSolicitation(b []byte, from net.HardwareAddr) (question, bool) {
	if len(b) < ip6Len+solicitLen || b[0]>>4 != 6 || b[6] != protoICMPv6 || b[7] != neighbourLimit {
		return question{}, false
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < solicitLen || len(b) < ip6Len+length {
		return question{}, false
	}
	m := b[ip6Len : ip6Len+length]
	if m[0] != typeSolicit || m[1] != 0 || checksum(src, dst, m) != 0 {
		return question{}, false
	}
	target := netip.AddrFrom16([16]byte(m[8:24]))
	if target.IsMulticast() || src.IsMulticast() || src.Is4In6() || target.Is4In6() {
		return question{}, false
	}
	return question{target: target, asker: src, askerMAC: from}, true
}

// answer makes the frame that tells the asker that own has the target.
func answer(q question, own net.HardwareAddr) []byte {
	if q.target.Is4() {
		return arp(arpReply, own, q.target, q.askerMAC, q.asker)
	}
	if q.asker.IsUnspecified() {
		return advertisement(q.target, own, allNodes, allNodesMAC, flagOverride)
	}
	return advertisement(q.target, own, q.asker, q.askerMAC, flagOverride|flagSolicited)
}

// unasked makes the frames that tell the whole link that own has addr: for IPv4
// a gratuitous request and reply, as some machines heed but one (RFC 5227, 3),
// for IPv6 an unsolicited advertisement (RFC 4861, 7.2.6).
func unasked(addr netip.Addr, own net.HardwareAddr) [][]byte {
	if addr.Is4() {
		reply := arp(arpReply, own, addr, everybody, addr)
		return [][]byte{arp(arpRequest, own, addr, everybody, addr), reply}
	}
	return [][]byte{advertisement(addr, own, allNodes, allNodesMAC, flagOverride)}
}

func arp(op uint16, own net.HardwareAddr, addr netip.Addr, to net.HardwareAddr, asker netip.Addr) []byte {
	b := ether(to, own, etherARP)
	b = binary.BigEndian.AppendUint16(b, hardwareEthernet)
	b = binary.BigEndian.AppendUint16(b, etherIPv4)
	b = append(b, 6, 4)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, own...), addr.AsSlice()...)
	return append(append(b, to...), asker.AsSlice()...)
}

func ether(to, from net.HardwareAddr, kind uint16) []byte {
	b := make([]byte, 0, etherLen+ip6Len+advertiseLen)
	return binary.BigEndian.AppendUint16(append(append(b, to...), from...), kind)
}

// advertisement comes from the address itself, which is this host's for as long
// as it answers.
func advertisement(addr netip.Addr, own net.HardwareAddr, to netip.Addr, toMAC net.HardwareAddr, flags byte) []byte {
	m := make([]byte, 8, advertiseLen)
	m[0], m[4] = typeAdvertise, flags
	m = append(append(m, addr.AsSlice()...), optionTarget, 1)
	m = append(m, own...)
	binary.BigEndian.PutUint16(m[2:], checksum(addr, to, m))

	b := ether(toMAC, own, etherIPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, advertiseLen)
	b = append(b, protoICMPv6, neighbourLimit)
	b = append(append(b, addr.AsSlice()...), to.AsSlice()...)
	return append(b, m...)
}

// checksum is ICMPv6's (RFC 4443, 2.3); 0 for a message that has a good one.
func checksum(src, dst netip.Addr, m []byte) uint16 {
	sum := uint32(len(m)) + protoICMPv6
	add := func(b []byte) {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	add(src.AsSlice())
	add(dst.AsSlice())
	add(m)
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// solicitedNode is the group that questions about addr are sent to (RFC 4291,
// 2.7.1).
func solicitedNode(addr netip.Addr) netip.Addr {
	a, g := addr.As16(), [16]byte{0xff, 2, 11: 1, 12: 0xff}
	copy(g[13:], a[13:])
	return netip.AddrFrom16(g)
}
