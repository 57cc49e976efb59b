package netdp

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/bpf"
	"shoal/netdp/policy/tables"
)

// isolatedPod is a lab with pod one, isolated as policyTable says, by packets.
type isolatedPod struct {
	*lab
	d            *Datapath
	ip           netip.Addr
	table        tables.Change
	uplink, link int
}

func newIsolatedPod(t *testing.T) *isolatedPod {
	l := newLab(t)
	d := l.openUntilEnd()
	_, ip := l.pod(d, "one")
	p := &isolatedPod{lab: l, d: d, ip: ip, uplink: l.linkIndex(d, labUplink), link: l.linkIndex(d, hostLinkName("one"))}
	p.table = policyTable(ip, map[netip.Addr]tables.ID{ip: 99, netip.MustParseAddr(isolatedPeer): 100})
	l.must(d.SetPolicy(p.table))
	return p
}

const (
	isolatedPeer     = "10.64.9.9"
	flagFIN, flagRST = 0x01, 0x04
)

// sends and gets tell whether a TCP packet passes between ports of the pod and
// its peer.
func (p *isolatedPod) sends(podPort, peerPort int, flags byte) bool {
	p.t.Helper()
	f := frame{src: fmt.Sprintf("%s:%d", p.ip, podPort), dst: fmt.Sprintf("%s:%d", isolatedPeer, peerPort), proto: TCP, flags: flags}
	verdict, _ := p.runProgram(p.d, bpf.DatapathProgPodEgress, p.link, f.bytes())
	return verdict != verdictDrop
}

func (p *isolatedPod) gets(podPort, peerPort int, flags byte) bool {
	p.t.Helper()
	f := frame{src: fmt.Sprintf("%s:%d", isolatedPeer, peerPort), dst: fmt.Sprintf("%s:%d", p.ip, podPort), proto: TCP, flags: flags}
	return p.runToPod(p.d, "one", p.uplink, f.bytes()) != verdictDrop
}

func (p *isolatedPod) want(what string, passes, should bool) {
	p.t.Helper()
	if passes != should {
		p.t.Errorf("%s: passes %t, want %t", what, passes, should)
	}
}

// entries changes every entry of the pod's connections; nil takes them away, as
// others do for which there is no room.
func (p *isolatedPod) entries(change func(*bpf.DatapathPolicyConn)) {
	p.t.Helper()
	m := p.d.maps[bpf.DatapathMapPolicyConns]
	all := map[bpf.DatapathPolicyConnKey]bpf.DatapathPolicyConn{}
	p.must(readMap(m, func(k bpf.DatapathPolicyConnKey, v bpf.DatapathPolicyConn) { all[k] = v }))
	for k, v := range all {
		if change == nil {
			p.must(m.Delete(&k))
			continue
		}
		change(&v)
		p.must(m.Put(&k, &v))
	}
}

// A connection whose entry made room for others goes on; nothing begins without
// its own direction's rules.
func TestConnectionsOutliveTheirEntries(t *testing.T) {
	p := newIsolatedPod(t)
	p.want("a call of the peer", p.gets(80, 6000, flagSYN), true)
	p.entries(nil)
	p.want("the pod's data on it", p.sends(80, 6000, flagACK), true)
	p.want("the peer's", p.gets(80, 6000, flagACK), true)
	p.want("a call of the pod", p.sends(5000, 443, flagSYN), true)
	p.entries(nil)
	p.want("the peer's data on it", p.gets(5000, 443, flagACK), true)
	p.want("the pod's", p.sends(5000, 443, flagACK), true)
	p.entries(nil)
	p.want("a SYN by its ports", p.gets(5000, 443, flagSYN), false)
	p.want("an answer by its ports", p.gets(5000, 443, flagSYN|flagACK), false)
	p.want("what neither direction allows", p.gets(5000, 444, flagACK), false)
	p.want("and the pod's", p.sends(80+1, 6000, flagACK), false)

	p.want("a call of the peer again", p.gets(80, 6001, flagSYN), true)
	p.entries(nil)
	p.want("its data", p.sends(80, 6001, flagACK), true)
	p.table.Rules.Peers[tables.RuleKey{Set: 1001, Peer: 100}] = tables.NoProfile
	p.must(p.d.SetPolicy(p.table))
	p.want("its data when such calls are forbidden", p.sends(80, 6001, flagACK), false)
	p.want("the peer's", p.gets(80, 6001, flagACK), false)

	p.table.Subjects[p.ip] = tables.Subject{Ingress: 1001}
	p.must(p.d.SetPolicy(p.table))
	p.want("a call of the pod, which is isolated for calls to it alone", p.sends(5001, 9999, flagSYN), true)
	p.entries(nil)
	p.want("the pod's data on it", p.sends(5001, 9999, flagACK), true)
	p.want("the peer's", p.gets(5001, 9999, flagACK), true)
	p.want("a call of the peer", p.gets(80, 9999, flagSYN), false)
}

// A pod that is isolated in one direction alone gets round its rules by no segment
// of a connection that was never begun, and such segments make no entries.
func TestSegmentsOfNoConnection(t *testing.T) {
	p := newIsolatedPod(t)
	count := func() (n int) {
		p.must(readMap(p.d.maps[bpf.DatapathMapPolicyConns], func(bpf.DatapathPolicyConnKey, bpf.DatapathPolicyConn) { n++ }))
		return n
	}
	isolate := func(s tables.Subject) {
		p.entries(nil)
		p.table.Subjects[p.ip] = s
		p.must(p.d.SetPolicy(p.table))
	}
	for _, flags := range []byte{flagACK, flagACK | flagFIN, flagRST, 0} {
		what := fmt.Sprintf("flags %#x, ", flags)
		isolate(tables.Subject{Egress: 1002})
		p.want(what+"a pod that may call few sends", p.sends(5000, 444, flags), false)
		p.want(what+"and gets", p.gets(5000, 444, flagSYN|flagACK), true) // nothing forbids that way
		p.entries(nil)
		p.want(what+"it sends by ports that it may call", p.sends(5000, 443, flags), true)

		isolate(tables.Subject{Ingress: 1001})
		for port := range 50 {
			p.want(what+"a pod that few may call gets", p.gets(81, 6000+port, flags), false)
		}
		if n := count(); n != 0 {
			t.Errorf("%s%d entries of what is forbidden", what, n)
		}
		p.want(what+"it gets by ports that may be called", p.gets(80, 6000, flags), true)
		p.entries(nil)
		p.want(what+"it sends", p.sends(81, 6000, flags), true) // it may call anybody
	}
}

// After its end a connection's ports mean nothing for long.
func TestConnectionsEnd(t *testing.T) {
	for _, c := range []struct {
		name  string
		close func(p *isolatedPod)
		ended bool
	}{
		{"both are done", func(p *isolatedPod) { p.sends(5000, 443, flagFIN|flagACK); p.gets(5000, 443, flagFIN|flagACK) }, true},
		{"a reset", func(p *isolatedPod) { p.gets(5000, 443, flagRST) }, true},
		{"the pod is done", func(p *isolatedPod) { p.sends(5000, 443, flagFIN|flagACK) }, false},
		{"open", func(*isolatedPod) {}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newIsolatedPod(t)
			p.want("a call", p.sends(5000, 443, flagSYN), true)
			p.want("its answer", p.gets(5000, 443, flagSYN|flagACK), true)
			c.close(p)
			p.want("what is late", p.gets(5000, 443, flagACK), true)
			p.entries(func(v *bpf.DatapathPolicyConn) { v.SeenSeconds -= 62 })
			p.want("an answer much later", p.gets(5000, 443, flagSYN|flagACK), !c.ended)
			p.want("a new call", p.sends(5000, 443, flagSYN), true)
			p.want("its answer", p.gets(5000, 443, flagSYN|flagACK), true)
		})
	}
}

// Pods behind the tunnel are known by their addresses only when they come by the
// tunnel, and from their own host.
func TestForgedPodsOfOtherHosts(t *testing.T) {
	c := newCell(t, "near1", "far2", "far3")
	c.meet()
	first, own, other := c.hosts[0], c.hosts[1], c.hosts[2]
	ns, ip := first.pod(first.dp, "victim")
	const peer = "10.64.2.7"
	c.must(first.dp.SetPolicy(policyTable(ip, map[netip.Addr]tables.ID{ip: 99, netip.MustParseAddr(peer): 100})))
	var pc net.PacketConn
	c.must(ns.do(func() (err error) {
		pc, err = net.ListenPacket("udp4", ":1000")
		return err
	}))
	defer pc.Close()
	port := 5000
	forged := func() uint64 {
		counts, err := first.dp.Drops()
		c.must(err)
		return counts["spoofed-source"]
	}
	call := func(payload int) frame {
		port++
		return frame{src: fmt.Sprintf("%s:%d", peer, port), dst: ip.String() + ":1000", proto: UDP, payload: strings.Repeat("x", payload)}
	}
	for _, way := range []struct {
		name    string
		plain   int // without a checksum outside
		payload int
	}{{"by the tunnel's device", 0, 5}, {"past it", 1, 5}, {"by the gathering link", 1, 1200}} {
		inject := func(from *cellHost) {
			t.Helper()
			conn, err := dial(from.host, "udp4", fmt.Sprintf("%s:%d", first.ip, DefaultVXLANPort))
			c.must(err)
			defer conn.Close()
			raw, err := conn.(*net.UDPConn).SyscallConn()
			c.must(err)
			c.must(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, way.plain) }))
			c.must(err)
			_, err = conn.Write(append([]byte{8, 0, 0, 0, 0, 0, DefaultVNI, 0}, call(way.payload).bytes()...))
			c.must(err)
		}
		before := forged()
		inject(own)
		c.must(pc.SetReadDeadline(deadline()))
		if _, _, err := pc.ReadFrom(make([]byte, 2000)); err != nil {
			t.Fatalf("%s, from its own host: %v", way.name, err)
		}
		inject(other)
		c.until("it is dropped from another, "+way.name, func() bool { return forged() == before+1 })
	}
	before := forged()
	uplink := c.linkIndex(first.dp, cellLink)
	if verdict := c.runToPod(first.dp, "victim", uplink, call(5).bytes()); verdict != verdictDrop || forged() != before+1 {
		t.Errorf("beside the tunnel: verdict %d", verdict)
	}
}
