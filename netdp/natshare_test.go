package netdp

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"shoal/bpf"
)

// manyFrames gives a program a packet for each port of the sender's from first on and
// counts those that it dropped.
func (l *lab) manyFrames(d *Datapath, program string, from netip.Addr, f frame, first, n int) (dropped int) {
	l.t.Helper()
	ctx := skbContext(l.linkIndex(d, labUplink))
	l.must(d.host.do(func() error {
		for port := first; port < first+n; port++ {
			f.src = netip.AddrPortFrom(from, uint16(port)).String()
			verdict, err := d.progs[program].Run(&ebpf.RunOptions{Data: f.bytes(), Context: ctx})
			if err != nil {
				return err
			}
			if verdict == verdictDrop {
				dropped++
			}
		}
		return nil
	}))
	return dropped
}

// A pod that opens whatever it can towards one destination runs out of ports, and
// other pods do not.
func TestFloodTakesNoPortsOfOthers(t *testing.T) {
	const flood, calls = 40_000, 300
	for _, c := range []struct {
		proto Proto
		flags byte
		open  bool // the flooder's connections are open
	}{{TCP, flagSYN, false}, {UDP, 0, false}, {TCP, flagSYN, true}} {
		t.Run(fmt.Sprintf("%s open %t", c.proto, c.open), func(t *testing.T) {
			l, d, flooder := masqueradeLab(t, nil)
			f := frame{dst: "203.0.113.80:443", proto: c.proto, flags: c.flags}
			noPort := func() uint64 {
				counts, err := d.Drops()
				l.must(err)
				return counts["no-free-port"]
			}
			dropped := l.manyFrames(d, bpf.DatapathProgUplinkEgress, flooder, f, 10_000, flood)
			if counted := int(noPort()); dropped == 0 || counted != dropped {
				t.Errorf("%d of %d packets of the flood were dropped, %d were counted", dropped, flood, counted)
			}
			if c.open {
				l.openNATs(d)
			}
			for i := range 5 {
				_, pod := l.pod(d, fmt.Sprintf("neighbour%d", i))
				if dropped := l.manyFrames(d, bpf.DatapathProgUplinkEgress, pod, f, 40_000, calls); dropped > 0 {
					t.Errorf("%d of %d calls of neighbour %d were dropped", dropped, calls, i)
				}
			}
		})
	}
}

// openNATs says of all connections that they are open.
func (l *lab) openNATs(d *Datapath) {
	l.t.Helper()
	nats := d.maps[bpf.DatapathMapNats]
	var keys []bpf.DatapathFlowKey
	var values []bpf.DatapathNat
	l.must(readMap(nats, func(key bpf.DatapathFlowKey, n bpf.DatapathNat) {
		n.State = 4 | 8
		keys, values = append(keys, key), append(values, n)
	}))
	_, err := nats.BatchUpdate(keys, values, nil)
	l.must(err)
}

// Forged calls from outside hold no port against those that come after them.
func TestForgedCallsHoldNoPorts(t *testing.T) {
	l, d := natLab(t, "10.64.8.7:80")
	f := frame{dst: labHostIP + ":30080", proto: TCP, flags: flagSYN}
	for i := range 5 {
		l.manyFrames(d, bpf.DatapathProgUplinkIngress, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), f, 10_000, 20_000)
	}
	if dropped := l.manyFrames(d, bpf.DatapathProgUplinkIngress, netip.MustParseAddr(labOutsideIP), f, 40_000, 300); dropped > 0 {
		t.Errorf("%d of 300 calls were dropped", dropped)
	}
}

// A caller may not have all ports, and has as many as it may.
func TestShareOfPorts(t *testing.T) {
	l, d, pod := masqueradeLab(t, nil)
	f := frame{dst: "203.0.113.80:443", proto: TCP, flags: flagSYN}
	l.manyFrames(d, bpf.DatapathProgUplinkEgress, pod, f, 10_000, 12_000)
	pairs, ports := map[uint16]bool{}, 0
	l.must(readMap(d.maps[bpf.DatapathMapNats], func(key bpf.DatapathFlowKey, _ bpf.DatapathNat) {
		pairs[wirePort(key.Dport)/2] = true
		ports++
	}))
	if least := (natPortMax - natPortMin + 1) / 2 * 9 / 10; ports != len(pairs) || ports < least {
		t.Errorf("it has %d ports of %d pairs, want one of each and %d or more", ports, len(pairs), least)
	}
}
