package netdp

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// natLab is a lab with one other host on its link and one behind it, each with
// a pod range and a backend for the same node port.
func natLab(t *testing.T, backend string) (*lab, *Datapath) {
	l := wideLab(t)
	d := l.openUntilEnd()
	l.must(d.SetHosts([]Host{
		{Name: "near", Addresses: []netip.Addr{netip.MustParseAddr("198.18.0.9")}, PodCIDR: netip.MustParsePrefix("10.64.8.0/24")},
		{Name: "far", Addresses: []netip.Addr{netip.MustParseAddr("198.19.0.9")}, PodCIDR: netip.MustParsePrefix("10.64.9.0/24")},
	}))
	for _, proto := range []Proto{TCP, UDP} {
		l.must(d.SetService(Service{Key: proto.String(), Proto: proto, Frontends: []Frontend{{Port: 30080}},
			Backends: []Backend{{Addr: netip.MustParseAddrPort(backend)}}}))
	}
	return l, d
}

// Calls whose backend is elsewhere go on in the host's name, and the answers
// come back in the name of what was called.
func TestPassedOn(t *testing.T) {
	const client, called = labOutsideIP + ":40000", labHostIP + ":30080"
	for _, backend := range []string{"10.64.8.7:80", "10.64.9.7:80", "198.18.0.9:6443"} {
		for _, in := range []frame{
			{src: client, dst: called, proto: TCP, flags: flagSYN},
			{src: client, dst: called, proto: UDP, payload: "odd"},
			{src: client, dst: called, proto: UDP, noSum: true},
			{src: client, dst: called, proto: TCP, flags: flagSYN, options: 8},
		} {
			t.Run(fmt.Sprintf("%s %+v", backend, in), func(t *testing.T) {
				l, d := natLab(t, backend)
				uplink := l.linkIndex(d, labUplink)
				verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, in.bytes())
				src, dst := frameEnds(out)
				suffix := ""
				if in.noSum {
					suffix = " no checksum"
				}
				want := fmt.Sprintf("%s %s > %s%s", in.proto, src, backend, suffix)
				if verdict != verdictRedirect || describe(out) != want || src.Addr().String() != labHostIP {
					t.Fatalf("verdict %d, %s", verdict, describe(out))
				}
				if src.Port() < natPortMin || src.Port() > natPortMax {
					t.Errorf("port %d is not one of ours", src.Port())
				}
				for range 3 { // the connection keeps its port
					_, again := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, in.bytes())
					if s, _ := frameEnds(again); s != src {
						t.Errorf("went on from %s, then from %s", src, s)
					}
				}
				// Hosts whose services lead to each other's node ports send nothing in circles.
				_, aged := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, marked(in.bytes(), 0, 9))
				if _, hops := marks(aged); hops != 8 {
					t.Errorf("goes on with %d hops left of 9", hops)
				}
				if verdict, _ := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, marked(in.bytes(), 0, 1)); verdict != verdictDrop {
					t.Errorf("at its last hop: verdict %d", verdict)
				}
				answer := frame{src: dst.String(), dst: src.String(), proto: in.proto, flags: flagSYN | flagACK, payload: "answer"}
				verdict, out = l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, answer.bytes())
				if want := fmt.Sprintf("%s %s > %s", in.proto, called, client); verdict != verdictRedirect || describe(out) != want {
					t.Errorf("answer: verdict %d, %s, want %s", verdict, describe(out), want)
				}
				answer.dst = fmt.Sprintf("%s:%d", labHostIP, natPortMin+(int(src.Port())-natPortMin+1)%100)
				verdict, out = l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, answer.bytes())
				if verdict != verdictPass || string(out) != string(answer.bytes()) {
					t.Errorf("an answer to nobody: verdict %d, %s", verdict, describe(out))
				}
			})
		}
	}
}

// fillNATs takes all ports towards a destination, last heard of some time ago.
func (l *lab) fillNATs(d *Datapath, backend netip.AddrPort, proto Proto, state uint32, idleSeconds int64) {
	l.t.Helper()
	var now unix.Timespec
	l.must(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	var keys []bpf.DatapathFlowKey
	var values []bpf.DatapathNat
	for port := natPortMin; port <= natPortMax; port++ {
		keys = append(keys, bpf.DatapathFlowKey{Src: wireAddr(backend.Addr()), Dst: wireAddr(netip.MustParseAddr(labHostIP)),
			Sport: wirePort(backend.Port()), Dport: wirePort(uint16(port)), Proto: uint8(proto), Direction: 1})
		values = append(values, bpf.DatapathNat{Client: [4]uint32{1}, SeenSeconds: uint32(now.Sec - idleSeconds), State: state})
	}
	_, err := d.maps[bpf.DatapathMapNats].BatchUpdate(keys, values, &ebpf.BatchOptions{})
	l.must(err)
}

// A port that is wanted goes from who needs it least. Pods lose nothing to each
// other that may go on; other machines may be many or one, so what they have not
// opened yet goes when no port is free.
func TestPortsAreTakenAgain(t *testing.T) {
	const answered, open = 4, 4 | 8
	backend, world := netip.MustParseAddrPort("10.64.8.7:80"), netip.MustParseAddrPort("203.0.113.80:443")
	for _, c := range []struct {
		name    string
		proto   Proto
		state   uint32
		idle    int64
		pod     bool // one may have it
		outside bool // so may a call from outside
	}{
		{"TCP in use", TCP, open, 3600, false, false},
		{"TCP forgotten", TCP, open, 3*3600 + 5, true, true},
		{"TCP half closed", TCP, open | 1, 3600, false, false},
		{"TCP just closed", TCP, open | 3, 1, false, false},
		{"TCP closed", TCP, open | 3, 10, true, true},
		{"TCP just begun", TCP, 0, 3, false, true},
		{"TCP never answered", TCP, 0, 8, true, true},
		{"TCP answered, but from a forged address", TCP, answered, 8, true, true},
		{"TCP refused", TCP, answered | 3, 8, true, true},
		{"UDP stream", UDP, open, 100, false, false},
		{"UDP stream that is silent", UDP, open, 125, true, true},
		{"UDP just begun", UDP, 0, 3, false, true},
		{"UDP never answered", UDP, 0, 8, true, true},
		{"UDP answered once", UDP, answered, 25, false, true},
		{"UDP answered once, long ago", UDP, answered, 35, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, d := natLab(t, backend.String())
			_, pod := l.pod(d, "caller")
			uplink := l.linkIndex(d, labUplink)
			l.fillNATs(d, backend, c.proto, c.state, c.idle)
			in := frame{src: labOutsideIP + ":40000", dst: labHostIP + ":30080", proto: c.proto, flags: flagSYN}
			verdict, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, in.bytes())
			if want := map[bool]uint32{true: verdictRedirect, false: verdictDrop}[c.outside]; verdict != want {
				t.Errorf("outside: verdict %d, want %d; %s", verdict, want, describe(out))
			}
			l.fillNATs(d, world, c.proto, c.state, c.idle)
			in.src, in.dst = pod.String()+":40000", world.String()
			verdict, out = l.runProgram(d, bpf.DatapathProgUplinkEgress, uplink, in.bytes())
			if want := map[bool]uint32{true: verdictPass, false: verdictDrop}[c.pod]; verdict != want {
				t.Errorf("pod: verdict %d, want %d; %s", verdict, want, describe(out))
			}
		})
	}
}

// Both ends' FIN, or one RST, ends a connection; a new SYN begins it again.
func TestCloseIsSeen(t *testing.T) {
	const flagFIN, flagRST = 0x01, 0x04
	backend := netip.MustParseAddrPort("10.64.8.7:80")
	for _, c := range []struct {
		name    string
		client  []byte
		backend []byte
		want    uint32
	}{
		{"open", []byte{flagSYN, flagACK}, []byte{flagSYN | flagACK}, 0},
		{"the client is done", []byte{flagSYN, flagFIN | flagACK}, []byte{flagACK}, 1},
		{"the backend is done", []byte{flagSYN}, []byte{flagFIN | flagACK}, 2},
		{"both are", []byte{flagSYN, flagFIN | flagACK}, []byte{flagFIN | flagACK}, 3},
		{"the client resets", []byte{flagSYN, flagRST}, nil, 3},
		{"the backend resets", []byte{flagSYN}, []byte{flagRST | flagACK}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, d := natLab(t, backend.String())
			uplink := l.linkIndex(d, labUplink)
			in := frame{src: labOutsideIP + ":40000", dst: labHostIP + ":30080", proto: TCP}
			var src netip.AddrPort
			send := func(flags byte) {
				in.flags = flags
				_, out := l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, in.bytes())
				src, _ = frameEnds(out)
			}
			state := func() (now uint32) {
				n := 0
				l.must(readMap(d.maps[bpf.DatapathMapNats], func(_ bpf.DatapathFlowKey, v bpf.DatapathNat) {
					now = v.State
					n++
				}))
				if n != 1 {
					t.Errorf("%d entries", n)
				}
				return now
			}
			for _, flags := range c.client {
				send(flags)
			}
			for _, flags := range c.backend {
				answer := frame{src: backend.String(), dst: src.String(), proto: TCP, flags: flags}
				l.runProgram(d, bpf.DatapathProgUplinkIngress, uplink, answer.bytes())
			}
			if c.want == 0 {
				if send(flagACK); state() != 4|8 {
					t.Errorf("answered and acknowledged, state is %d", state())
				}
			}
			if got := state() & 3; got != c.want {
				t.Errorf("done is %d, want %d", got, c.want)
			}
			if send(flagSYN); state()&3 != 0 {
				t.Error("a new SYN did not begin it again")
			}
		})
	}
}

// Traffic policies that keep to local endpoints: from outside only the host's
// own pod answers or nobody, inside all do, and the other way round.
func TestTrafficPolicies(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.meet()
	pods := c.servers()
	ask := func(h *cellHost, ns namespace, to string) map[string]bool {
		t.Helper()
		names := map[string]bool{}
		for range 40 {
			got, err := c.askFrom(h, ns, "tcp4", to)
			if err != nil {
				names["nobody"] = true
				return names
			}
			var name string
			_, _ = fmt.Sscan(got, &name)
			names[name] = true
		}
		return names
	}
	const all = "map[far3:true near1:true near2:true]"
	service := func(h *cellHost, local, remote Callers, without string) {
		s := Service{Key: "web", Proto: TCP, LocalOutside: remote == OnlyInside,
			Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}}}
		for _, p := range pods {
			b := Backend{Addr: netip.AddrPortFrom(p.ip, 80), Callers: remote}
			if p.host == h {
				b.Callers = local
			}
			if p.host.name != without {
				s.Backends = append(s.Backends, b)
			}
		}
		c.must(h.dp.SetService(s))
	}
	expect := func(what string, got map[string]bool, want string) {
		t.Helper()
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", what, got, want)
		}
	}
	for _, p := range pods {
		h, name := p.host, p.host.name
		own := fmt.Sprintf("map[%s:true]", name)
		node := h.ip.String() + ":30080"
		service(h, AnyCaller, OnlyInside, "")
		expect("external local, outside", ask(nil, c.outside, node), own)
		expect("external local, pod", ask(h, p.ns, "10.0.0.10:80"), all)
		expect("external local, pod to the node port", ask(h, p.ns, node), all)
		service(h, AnyCaller, OnlyInside, name)
		expect("external local without an endpoint, outside", ask(nil, c.outside, node), "map[nobody:true]")
		service(h, AnyCaller, OnlyOutside, "")
		expect("internal local, pod", ask(h, p.ns, "10.0.0.10:80"), own)
		expect("internal local, outside", ask(nil, c.outside, node), all)
	}
}
