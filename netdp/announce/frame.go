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

// neighbourMessage returns the message of a packet of neighbour discovery, which has
// a target in any case, and who sent it.
func neighbourMessage(b []byte, kind byte) (m []byte, src netip.Addr, ok bool) {
	if len(b) < ip6Len+solicitLen || b[0]>>4 != 6 || b[6] != protoICMPv6 || b[7] != neighbourLimit {
		return nil, src, false
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < solicitLen || len(b) < ip6Len+length {
		return nil, src, false
	}
	m = b[ip6Len : ip6Len+length]
	return m, src, m[0] == kind && m[1] == 0 && checksum(src, dst, m) == 0
}

func parseSolicitation(b []byte, from net.HardwareAddr) (question, bool) {
	m, src, ok := neighbourMessage(b, typeSolicit)
	if !ok {
		return question{}, false
	}
	target := netip.AddrFrom16([16]byte(m[8:24]))
	if target.IsMulticast() || src.IsMulticast() || src.Is4In6() || target.Is4In6() {
		return question{}, false
	}
	return question{target: target, asker: src, askerMAC: from}, true
}

// claim is who says to have an address, or looks whether it is free before taking
// it (probe).
type claim struct {
	addr  netip.Addr
	mac   net.HardwareAddr
	probe bool
}

// parseClaim reads what a frame of ARP or neighbour discovery says about its
// sender's address (RFC 5227, 1.1 and RFC 4862, 5.4); false: nothing.
func parseClaim(frame []byte) (claim, bool) {
	if len(frame) < etherLen || frame[6]&1 != 0 {
		return claim{}, false
	}
	b := frame[etherLen:]
	switch binary.BigEndian.Uint16(frame[12:14]) {
	case etherARP:
		return claimOfARP(b)
	case etherIPv6:
		return claimOfNeighbour(b, net.HardwareAddr(frame[6:12]))
	}
	return claim{}, false
}

func claimOfARP(b []byte) (claim, bool) {
	if len(b) < arpLen || binary.BigEndian.Uint16(b) != hardwareEthernet || binary.BigEndian.Uint16(b[2:]) != etherIPv4 || b[4] != 6 || b[5] != 4 {
		return claim{}, false
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	c := claim{addr: sender, mac: net.HardwareAddr(b[8:14])}
	switch op := binary.BigEndian.Uint16(b[6:]); {
	case op != arpRequest && op != arpReply || c.mac[0]&1 != 0:
		return claim{}, false
	case op == arpRequest && sender.IsUnspecified():
		c.addr, c.probe = target, true
	}
	return c, !c.addr.IsUnspecified()
}

func claimOfNeighbour(b []byte, from net.HardwareAddr) (claim, bool) {
	if q, ok := parseSolicitation(b, from); ok {
		if q.asker.IsUnspecified() {
			return claim{addr: q.target, mac: from, probe: true}, true
		}
		return claim{addr: q.asker, mac: from}, true
	}
	m, _, ok := neighbourMessage(b, typeAdvertise)
	if !ok {
		return claim{}, false
	}
	target := netip.AddrFrom16([16]byte(m[8:24]))
	return claim{addr: target, mac: from}, !target.IsMulticast() && !target.Is4In6()
}

// probe makes the frame that asks whether anybody has addr, without claiming it
// (RFC 5227, 2.1.1 and RFC 4862, 5.4.2).
func probe(addr netip.Addr, own net.HardwareAddr) []byte {
	if addr.Is4() {
		nobody := net.HardwareAddr{0, 0, 0, 0, 0, 0}
		b := arp(arpRequest, own, netip.IPv4Unspecified(), nobody, addr)
		copy(b, everybody)
		return b
	}
	group := solicitedNode(addr)
	bytes := group.As16()
	m := make([]byte, 8, solicitLen)
	m[0] = typeSolicit
	m = append(m, addr.AsSlice()...)
	return neighbour(netip.IPv6Unspecified(), own, group, append(net.HardwareAddr{0x33, 0x33}, bytes[12:]...), m)
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
	return neighbour(addr, own, to, toMAC, append(m, own...))
}

// neighbour puts headers before a message, and its checksum in.
func neighbour(src netip.Addr, own net.HardwareAddr, dst netip.Addr, toMAC net.HardwareAddr, m []byte) []byte {
	binary.BigEndian.PutUint16(m[2:], checksum(src, dst, m))
	b := ether(toMAC, own, etherIPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m)))
	b = append(b, protoICMPv6, neighbourLimit)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
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
