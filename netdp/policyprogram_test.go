package netdp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"shoal/bpf"
	"shoal/netdp/policy/tables"
)

// runToPod gives a packet to the program at a pod's link as if the stack passed it
// on from the device received, 0: from a program of the node.
func (l *lab) runToPod(d *Datapath, uid string, received int, packet []byte) uint32 {
	l.t.Helper()
	ctx := skbContext(l.linkIndex(d, hostLinkName(uid)))
	binary.NativeEndian.PutUint32(ctx[36:], uint32(received))
	var verdict uint32
	l.must(d.host.do(func() (err error) {
		verdict, err = d.progs[bpf.DatapathProgPodIngress].Run(&ebpf.RunOptions{
			Data: packet, DataOut: make([]byte, len(packet)+256), Context: ctx,
		})
		return err
	}))
	return verdict
}

// policyTable is a table written by hand: pod one may be called by peer 100 at
// TCP 80 and UDP 1000 to 1999, by 192.0.2.0/24 but 192.0.2.128/25 at all ports,
// and may call only peer 100, at TCP 443.
func policyTable(pod netip.Addr, peers map[netip.Addr]tables.ID) tables.Change {
	const in, out, web, mail = 1001, 1002, 2001, 2002
	c := tables.Change{Complete: true, Peers: peers,
		Subjects: map[netip.Addr]tables.Subject{pod: {Ingress: in, Egress: out}},
		Rules: &tables.Rules{
			Peers: map[tables.RuleKey]tables.ID{{Set: in, Peer: 100}: web, {Set: out, Peer: 100}: mail},
			Blocks: map[tables.BlockKey]tables.ID{
				{Set: in, Range: netip.MustParsePrefix("0.0.0.0/0")}:       tables.NoProfile,
				{Set: in, Range: netip.MustParsePrefix("192.0.2.0/24")}:    tables.AllProfile,
				{Set: in, Range: netip.MustParsePrefix("192.0.2.128/25")}:  tables.NoProfile,
				{Set: in, Range: netip.MustParsePrefix("192.0.2.129/32")}:  web,
				{Set: 77, Range: netip.MustParsePrefix("198.51.100.0/24")}: tables.AllProfile, // of another pod
			},
			Ports: map[tables.PortKey]struct{}{
				{Profile: web, Protocol: 6, Port: 80, Bits: 16}: {}, {Profile: mail, Protocol: 6, Port: 443, Bits: 16}: {},
				{Profile: web, Protocol: 132, Port: 80, Bits: 16}: {},
			},
		}}
	for _, p := range []struct {
		port uint16
		bits uint8
	}{{1000, 13}, {1008, 12}, {1024, 7}, {1536, 8}, {1792, 9}, {1920, 10}, {1984, 12}} {
		c.Rules.Ports[tables.PortKey{Profile: web, Protocol: 17, Port: p.port, Bits: p.bits}] = struct{}{}
	}
	return c
}

const protoSCTP = Proto(132)

// Packet in, verdict out: each way to a pod and from it.
func TestPolicyProgram(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	_, ip := l.pod(d, "one")
	_, friend := l.pod(d, "friend")
	remote := netip.MustParseAddr("10.64.9.9")
	l.must(d.SetPolicy(policyTable(ip, map[netip.Addr]tables.ID{ip: 99, friend: 100, remote: 100})))
	uplink := l.linkIndex(d, labUplink)
	to := func(port int) string { return fmt.Sprintf("%s:%d", ip, port) }
	for i, c := range []struct {
		name string
		in   frame
		drop bool
	}{
		{"of a known peer", frame{src: remote.String() + ":5", dst: to(80), proto: TCP, flags: flagSYN}, false},
		{"to another port", frame{src: remote.String() + ":5", dst: to(81), proto: TCP, flags: flagSYN}, true},
		{"by another protocol", frame{src: remote.String() + ":5", dst: to(80), proto: UDP}, true},
		{"below the range of ports", frame{src: remote.String() + ":5", dst: to(999), proto: UDP}, true},
		{"first of the range", frame{src: remote.String() + ":5", dst: to(1000), proto: UDP}, false},
		{"in the range", frame{src: remote.String() + ":5", dst: to(1500), proto: UDP}, false},
		{"last of the range", frame{src: remote.String() + ":5", dst: to(1999), proto: UDP}, false},
		{"above the range", frame{src: remote.String() + ":5", dst: to(2000), proto: UDP}, true},
		{"SCTP", frame{src: remote.String() + ":5", dst: to(80), proto: protoSCTP}, false},
		{"SCTP to another port", frame{src: remote.String() + ":5", dst: to(81), proto: protoSCTP}, true},
		{"of nobody known", frame{src: "10.64.9.8:5", dst: to(80), proto: TCP, flags: flagSYN}, true},
		{"of a block", frame{src: "192.0.2.1:5", dst: to(7), proto: TCP, flags: flagSYN}, false},
		{"of a block, a protocol without ports", frame{src: "192.0.2.1:0", dst: to(0), proto: 47}, false},
		{"of the exception", frame{src: "192.0.2.200:5", dst: to(7), proto: TCP, flags: flagSYN}, true},
		{"of a block in the exception", frame{src: "192.0.2.129:5", dst: to(80), proto: TCP, flags: flagSYN}, false},
		{"of a block in the exception, another port", frame{src: "192.0.2.129:5", dst: to(7), proto: TCP, flags: flagSYN}, true},
		{"of another pod's block", frame{src: "198.51.100.1:5", dst: to(80), proto: TCP, flags: flagSYN}, true},
		{"the node's address on the wire", frame{src: labHostIP + ":5", dst: to(80), proto: TCP, flags: flagSYN}, true},
		{"in the middle of a connection", frame{src: remote.String() + ":6", dst: to(80), proto: TCP, flags: flagACK}, false},
		{"in the middle of none", frame{src: remote.String() + ":6", dst: to(81), proto: TCP, flags: flagACK}, true},
		{"a later fragment of nothing", frame{src: remote.String() + ":5", dst: to(80), proto: UDP, fragment: 10}, true},
		{"a later fragment of nothing, all ports", frame{src: "192.0.2.7:5", dst: to(80), proto: UDP, fragment: 10}, false},
		{"to a pod without policy", frame{src: "10.64.9.8:5", dst: friend.String() + ":80", proto: TCP, flags: flagSYN}, false},
	} {
		uid := "one"
		if netip.MustParseAddrPort(c.in.dst).Addr() == friend {
			uid = "friend"
		}
		if got := l.runToPod(d, uid, uplink, c.in.bytes()); (got == verdictDrop) != c.drop {
			t.Errorf("%d, passed on, %s: verdict %d, dropped should be %t", i, c.name, got, c.drop)
		}
		c.in.src = fmt.Sprintf("%s:%d", labHostIP, 4000+i)
		if got := l.runToPod(d, uid, 0, c.in.bytes()); got != verdictPass {
			t.Errorf("%d, from the node, %s: verdict %d", i, c.name, got)
		}
	}
}

// Answers pass, of echoes too, and errors about what is allowed; when less is
// allowed, the same packets do not.
func TestPolicyAnswers(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	_, ip := l.pod(d, "one")
	remote := netip.MustParseAddr("10.64.9.9")
	table := policyTable(ip, map[netip.Addr]tables.ID{ip: 99, remote: 100})
	table.Rules.Blocks[tables.BlockKey{Set: 1002, Range: netip.MustParsePrefix("203.0.113.0/24")}] = tables.AllProfile
	_, friend := l.pod(d, "friend")
	table.Subjects[friend] = table.Subjects[ip]
	l.must(d.SetPolicy(table))
	uplink, link := l.linkIndex(d, labUplink), l.linkIndex(d, hostLinkName("one"))
	pod, peer := ip.String(), remote.String()
	const world = "203.0.113.5"
	out := func(what string, packet []byte, passes bool) {
		t.Helper()
		if verdict, _ := l.runProgram(d, bpf.DatapathProgPodEgress, link, packet); (verdict != verdictDrop) != passes {
			t.Errorf("%s: verdict %d, passes should be %t", what, verdict, passes)
		}
	}
	in := func(what string, packet []byte, passes bool) {
		t.Helper()
		if verdict := l.runToPod(d, "one", uplink, packet); (verdict != verdictDrop) != passes {
			t.Errorf("%s: verdict %d, passes should be %t", what, verdict, passes)
		}
	}
	call := frame{src: pod + ":5000", dst: peer + ":443", proto: TCP, flags: flagSYN}
	answer := frame{src: peer + ":443", dst: pod + ":5000", proto: TCP, flags: flagSYN | flagACK}
	in("an answer to nothing", answer.bytes(), false)
	out("a call", call.bytes(), true)
	in("its answer", answer.bytes(), true)
	begun := answer
	begun.flags = flagSYN
	in("a call by the answer's ports", begun.bytes(), false)
	in("an error about the call", tooLarge(world, call.bytes()), true)
	other := call
	other.src = pod + ":5001"
	in("an error about another call", tooLarge(world, other.bytes()), false)
	called := frame{src: peer + ":6000", dst: pod + ":80", proto: TCP, flags: flagSYN}
	in("a call of the peer", called.bytes(), true)
	out("its answer", frame{src: pod + ":80", dst: peer + ":6000", proto: TCP, flags: flagSYN | flagACK}.bytes(), true)
	out("an error about it", tooLarge(pod, called.bytes()), true)
	out("an error about it to somebody else", toAddr(tooLarge(pod, called.bytes()), world), false)
	out("an error about it to another pod", toAddr(tooLarge(pod, called.bytes()), friend.String()), false)
	in("an error about the pod's call to another pod", toAddr(tooLarge(peer, call.bytes()), friend.String()), false)
	link = l.linkIndex(d, hostLinkName("friend"))
	out("an error of another pod about it", tooLarge(friend.String(), called.bytes()), false)
	link = l.linkIndex(d, hostLinkName("one"))
	ping := frame{src: pod + ":77", dst: world + ":0", proto: UDP}
	pong := frame{src: world + ":0", dst: pod + ":77", proto: UDP}
	in("an echo's answer to nothing", echo(pong, true), false)
	out("an echo", echo(ping, false), true)
	in("its answer", echo(pong, true), true)
	out("an echo to a peer of some ports", echo(frame{src: pod + ":78", dst: peer + ":0", proto: UDP}, false), false)

	table.Rules.Peers[tables.RuleKey{Set: 1002, Peer: 100}] = tables.NoProfile // the set is the same
	l.must(d.SetPolicy(table))
	in("an answer that is allowed no longer", answer.bytes(), false)
	in("an error about it", tooLarge(world, call.bytes()), false)
	out("an error about the peer's call, which still is", tooLarge(pod, called.bytes()), true)
	in("an echo's, which still is", echo(pong, true), true)
	delete(table.Rules.Blocks, tables.BlockKey{Set: 1002, Range: netip.MustParsePrefix("203.0.113.0/24")})
	l.must(d.SetPolicy(table))
	in("an echo's that is not either", echo(pong, true), false)
	out("the answer to the peer, which is", frame{src: pod + ":80", dst: peer + ":6000", proto: TCP, flags: flagACK}.bytes(), true)
	l.must(d.SetPolicy(tables.Change{Peers: map[netip.Addr]tables.ID{remote: 101}}))
	out("the answer to what is no longer that peer", frame{src: pod + ":80", dst: peer + ":6000", proto: TCP, flags: flagACK}.bytes(), false)
}
