package netdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"shoal/bpf"
	"shoal/netdp/policy/tables"
)

// trackingMaps are those that packets make entries in.
var trackingMaps = []string{
	bpf.DatapathMapFlows, bpf.DatapathMapNats, bpf.DatapathMapAffinities,
	bpf.DatapathMapFragments, bpf.DatapathMapPolicyConns,
}

// tracked counts the entries of each map that packets make entries in.
func (l *lab) tracked(d *Datapath) map[string]int {
	l.t.Helper()
	out := map[string]int{}
	for _, name := range trackingMaps {
		m := d.maps[name]
		value, key := make([]byte, m.ValueSize()), make([]byte, m.KeySize())
		it := m.Iterate()
		for it.Next(&key, &value) {
			out[name]++
		}
		l.must(it.Err())
	}
	return out
}

// malformed is a fault in a packet that its receiver refuses. change gets the whole
// packet, and where its transport header is.
type malformed struct {
	name   string
	proto  Proto
	change func(b []byte, transport int) []byte
}

func put16(at int, v uint16) func([]byte, int) []byte {
	return func(b []byte, _ int) []byte { binary.BigEndian.PutUint16(b[ethLen+at:], v); return b }
}

func putTransport(at int, v byte) func([]byte, int) []byte {
	return func(b []byte, transport int) []byte { b[transport+at] = v; return b }
}

func cutTransport(n int) func([]byte, int) []byte {
	return func(b []byte, transport int) []byte {
		b = b[:transport+n]
		fixLength(b)
		return b
	}
}

// fixLength writes the IP header's length anew, and IPv4's checksum.
func fixLength(b []byte) {
	ip := b[ethLen:]
	if ip[0]>>4 == 6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6Len))
		return
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	fixSum(b)
}

// fixSum writes the checksum of the IPv4 header anew.
func fixSum(b []byte) {
	ip := b[ethLen:]
	length := min(len(ip), max(ipLen, int(ip[0]&0x0f)*4))
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip[:length]))
}

// malformedRows are the faults of packets of a family.
func malformedRows(v6 bool) []malformed {
	rows := []malformed{
		{"TCP cut in its ports", TCP, cutTransport(3)},
		{"TCP cut before its flags", TCP, cutTransport(13)},
		{"TCP cut before its checksum", TCP, cutTransport(16)},
		{"TCP header shorter than can be", TCP, putTransport(12, 0x40)},
		{"TCP options longer than the packet", TCP, putTransport(12, 0xf0)},
		{"UDP cut in its ports", UDP, cutTransport(2)},
		{"UDP cut before its checksum", UDP, cutTransport(6)},
		{"UDP length below its header", UDP, putTransport(5, 7)},
		{"UDP length above the packet", UDP, putTransport(4, 1)},
		{"ICMP cut before its number", icmpOf(v6), cutTransport(5)},
	}
	if v6 {
		return append(rows,
			malformed{"length above the packet", TCP, put16(4, 4000)},
			malformed{"length without the TCP header", TCP, put16(4, 8)},
			malformed{"no length", TCP, put16(4, 0)},
			malformed{"no IP header: another version", TCP, putIP(0, 0x40)},
			malformed{"an extension header that is cut off", TCP, putIP(6, ipv6Destination, 0x06, 0xff)},
		)
	}
	return append(rows,
		malformed{"length above the packet", TCP, put16(2, 4000)},
		malformed{"length below the IP header", TCP, put16(2, 19)},
		malformed{"length without the TCP header", TCP, put16(2, 28)},
		malformed{"no length", TCP, put16(2, 0)},
		malformed{"no IP header: another version", TCP, putIP(0, 0x65)},
		malformed{"no IP header: shorter than can be", TCP, putIP(0, 0x44)},
		malformed{"IP header longer than the packet", TCP, putIP(0, 0x4f)},
		malformed{"a fragment over TCP's flags", TCP, put16(6, 0x2001)},
		malformed{"a fragment over TCP's checksum", TCP, put16(6, 0x0002)},
	)
}

func icmpOf(v6 bool) Proto {
	if v6 {
		return protoICMPv6
	}
	return protoICMP
}

// putIP changes a byte of the IP header, and those after it.
func putIP(at int, v byte, after ...byte) func([]byte, int) []byte {
	return func(b []byte, transport int) []byte {
		b[ethLen+at] = v
		copy(b[transport:], after)
		return b
	}
}

func (m malformed) bytes(src, dst netip.AddrPort) []byte {
	f := frame{src: src.String(), dst: dst.String(), proto: m.proto, flags: flagSYN, payload: "payload"}
	var b []byte
	if m.proto == protoICMP || m.proto == protoICMPv6 {
		b = echo(f, false)
	} else {
		b = f.bytes()
	}
	transport := ethLen + ipLen
	if src.Addr().Is6() {
		transport = ethLen + ipv6Len
	}
	b = m.change(b, transport)
	if src.Addr().Is4() {
		fixSum(b)
	}
	return b
}

// A malformed packet is dropped, with that reason, where a program is the last to
// look; elsewhere it goes to the stack as it came. It leaves nothing in any map.
func TestMalformedRows(t *testing.T) {
	l := dualLab(t)
	l.opts.MaxFlows = 1024
	d := l.openUntilEnd()
	_, four := l.pod(d, "server")
	six := d.pods.byUID["server"].record.Address6
	l.must(d.SetHosts(nil))
	table := policyTable(four, map[netip.Addr]tables.ID{four: 99})
	table.Subjects[six] = table.Subjects[four]
	for _, set := range []tables.ID{1001, 1002} { // whatever is well formed may pass
		for _, all := range []string{"0.0.0.0/0", "::/0"} {
			table.Rules.Blocks[tables.BlockKey{Set: set, Range: netip.MustParsePrefix(all)}] = tables.AllProfile
		}
	}
	l.must(d.SetPolicy(table))
	for _, proto := range []Proto{TCP, UDP} {
		for addr, pod := range map[netip.Addr]netip.Addr{{}: four, NodePortIPv6: six} {
			l.must(d.SetService(Service{Key: fmt.Sprint(proto, pod), Proto: proto, Frontends: []Frontend{{Addr: addr, Port: 30080}},
				Backends: []Backend{{Addr: netip.AddrPortFrom(pod, 8080)}}}))
		}
	}
	uplink, link := l.linkIndex(d, labUplink), l.linkIndex(d, hostLinkName("server"))
	for _, v6 := range []bool{false, true} {
		pod, node, client, world := four, labHostIP, labOutsideIP, "203.0.113.80"
		if v6 {
			pod, node, client, world = six, labHostIP6, labOutsideIP6, "2001:db8:80::80"
		}
		for _, row := range malformedRows(v6) {
			at := func(addr string, port uint16) netip.AddrPort {
				return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
			}
			in, out := row.bytes(at(client, 40000), at(node, 30080)), row.bytes(at(pod.String(), 40000), at(world, 443))
			for _, c := range []struct {
				program string
				ifindex int
				packet  []byte
				verdict uint32
			}{
				{bpf.DatapathProgUplinkIngress, uplink, in, verdictPass},
				{bpf.DatapathProgUplinkEgress, uplink, out, verdictDrop},
				{bpf.DatapathProgPodEgress, link, out, verdictDrop},
				{bpf.DatapathProgToPod, link, row.bytes(at(client, 40000), at(pod.String(), 8080)), verdictDrop},
			} {
				name := fmt.Sprintf("%s, IPv6 %t, %s", row.name, v6, c.program)
				before, had := l.drops(d), l.tracked(d)
				verdict, after := l.runProgram(d, c.program, c.ifindex, c.packet)
				if c.program == bpf.DatapathProgUplinkEgress && strings.HasPrefix(row.name, "no IP header: ") {
					c.verdict = verdictPass // whose it is cannot be told; the stack sends none
				}
				if verdict != c.verdict || !bytes.Equal(after, c.packet) {
					t.Errorf("%s: verdict %d, want %d; changed: %t", name, verdict, c.verdict, !bytes.Equal(after, c.packet))
				}
				if got := l.drops(d)["malformed"] - before["malformed"]; (got == 1) != (c.verdict == verdictDrop) {
					t.Errorf("%s: counted as malformed %d times", name, got)
				}
				if has := l.tracked(d); !maps.Equal(has, had) {
					t.Errorf("%s: maps had %v, now %v", name, had, has)
				}
			}
		}
	}
	for _, in := range []frame{ // the rows without their faults make entries
		{src: labOutsideIP + ":40000", dst: labHostIP + ":30080", proto: TCP, flags: flagSYN},
		{src: "[" + labOutsideIP6 + "]:40000", dst: node6(30080), proto: UDP},
	} {
		had := l.tracked(d)
		if verdict, _ := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, in.bytes()); verdict != verdictRedirect || maps.Equal(had, l.tracked(d)) {
			t.Errorf("%s, whole: verdict %d, maps %v", in.dst, verdict, had)
		}
	}
}

func (l *lab) drops(d *Datapath) map[string]uint64 {
	l.t.Helper()
	drops, err := d.Drops()
	l.must(err)
	return drops
}
