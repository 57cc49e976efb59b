package netdp

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"shoal/bpf"
	"shoal/test/eventually"
)

// seen collects what a reader of flows was told.
type seen struct {
	mu      sync.Mutex
	records []FlowRecord
}

func (s *seen) all() []FlowRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.records)
}

// follow reads flows until the returned function is called.
func (l *lab) follow(d *Datapath) (*seen, func()) {
	l.t.Helper()
	s := &seen{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	readers := d.flows.count()
	go func() {
		done <- d.FollowFlows(ctx, func(rec FlowRecord, _ bool) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.records = append(s.records, rec)
			return nil
		})
	}()
	eventually.True(l.t, "the reader is known", func() bool { return d.flows.count() > readers })
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(stop)
	return s, stop
}

// What a reader sees of a call: the socket's choice of a backend, the opening
// packet, the close; of a call from outside; and of what is refused and dropped.
func TestFollowFlows(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	server, serverIP := l.pod(d, "server")
	client, clientIP := l.pod(d, "client")
	l.serveTCP(server, ":80", "server")
	const key = "default/web:80/TCP"
	backend := netip.AddrPortFrom(serverIP, 80)
	service := netip.MustParseAddrPort("10.0.0.10:80")
	l.must(d.SetService(Service{Key: key, Proto: TCP, Backends: []Backend{{Addr: backend}},
		Frontends: []Frontend{{Addr: service.Addr(), Port: 80}, {Port: 30080}}}))
	l.must(d.SetService(Service{Key: "default/empty:80/TCP", Proto: TCP,
		Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.11"), Port: 80}}}))

	l.ask(client, "tcp4", service.String()) // nobody listens: it is not told
	recent, err := d.RecentFlows()
	l.must(err)
	if len(recent) != 0 {
		t.Errorf("remembered without a reader: %+v", recent)
	}

	s, stop := l.follow(d)
	l.ask(client, "tcp4", service.String())
	l.ask(l.host, "tcp4", service.String())
	l.outsideCgroup(func() { l.ask(l.outside, "tcp4", labHostIP+":30080") })
	if _, err := dial(client, "tcp4", "10.0.0.11:80"); err == nil {
		t.Error("a service without a backend was reached")
	}
	spoofed := frame{src: "192.0.2.1:7", dst: "203.0.113.80:9", proto: UDP}
	l.runProgram(d, bpf.DatapathProgPodEgress, l.linkIndex(d, hostLinkName("client")), spoofed.bytes())

	for name, is := range map[string]func(FlowRecord) bool{
		"the pod's socket": func(r FlowRecord) bool {
			return r.Kind == FlowConnect && r.PodUID == "client" && r.Dst == service && r.Backend == backend && r.Service == key && !r.Src.Addr().IsValid()
		},
		"the host's socket": func(r FlowRecord) bool { return r.Kind == FlowConnect && r.FromHost && r.Service == key },
		"the pod's SYN": func(r FlowRecord) bool {
			return r.Kind == FlowOpen && r.Proto == TCP && r.Src.Addr() == clientIP && r.Dst == backend
		},
		"the pod's close": func(r FlowRecord) bool {
			return r.Kind == FlowClose && r.Src.Addr() == clientIP && r.Dst == backend
		},
		"the call from outside": func(r FlowRecord) bool {
			return r.Kind == FlowOutside && r.Src.Addr().String() == labOutsideIP && r.Dst.String() == labHostIP+":30080" && r.Backend == backend && r.Service == key
		},
		"the refusal": func(r FlowRecord) bool {
			return r.Kind == FlowDrop && r.Reason == "no-backend" && r.PodUID == "client" && r.Service == "default/empty:80/TCP"
		},
		"the drop": func(r FlowRecord) bool {
			return r.Kind == FlowDrop && r.Reason == "spoofed-source" && r.Src.String() == spoofed.src && r.Dst.String() == spoofed.dst
		},
	} {
		eventually.True(t, name, func() bool { return slices.ContainsFunc(s.all(), is) })
	}
	stop()
	var f bpf.DatapathFollow
	l.must(d.maps[bpf.DatapathMapFollowing].Lookup(uint32(0), &f))
	if f.UntilNs != 0 {
		t.Error("the programs go on telling after the last reader left")
	}
	type ends struct{ src, dst netip.AddrPort }
	opened, closed := map[ends]bool{}, map[ends]int{}
	for _, r := range s.all() {
		switch r.Kind {
		case FlowOpen:
			opened[ends{r.Src, r.Dst}] = true
		case FlowClose:
			closed[ends{r.Src, r.Dst}]++
		}
	}
	for e, n := range closed {
		if n != 1 {
			t.Errorf("%d closes of %v were told", n, e)
		}
		if opened[ends{e.dst, e.src}] {
			t.Errorf("a close is told from the wrong side: %v", e)
		}
	}
}

// A reader that takes nothing loses records, is told how many, and holds up no
// other.
func TestSlowReaderLosesRecords(t *testing.T) {
	const many = flowBacklog + 100
	l := newLab(t)
	d := l.openUntilEnd()
	fast, _ := l.follow(d)
	begun, goOn := make(chan struct{}), make(chan struct{})
	var slow seen
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- d.FollowFlows(ctx, func(rec FlowRecord, _ bool) error {
			slow.mu.Lock()
			slow.records = append(slow.records, rec)
			n := len(slow.records)
			slow.mu.Unlock()
			if n == 1 {
				close(begun)
				<-goOn
			}
			return nil
		})
	}()
	eventually.True(t, "both readers are known", func() bool { return d.flows.count() == 2 })
	d.flows.give(FlowRecord{Kind: FlowOpen})
	<-begun
	for range many {
		d.flows.give(FlowRecord{Kind: FlowOpen})
		if got := len(fast.all()); got > many+1 {
			t.Fatalf("the other reader got %d", got)
		}
	}
	close(goOn)
	eventually.True(t, "the slow reader is told what it lost", func() bool {
		d.flows.give(FlowRecord{Kind: FlowClose})
		return slices.ContainsFunc(slow.all(), func(r FlowRecord) bool { return r.Kind == FlowLost })
	})
	var lost, got uint64
	for _, r := range slow.all() {
		switch r.Kind {
		case FlowLost:
			lost += r.Count
		case FlowOpen:
			got++
		}
	}
	if got+lost < many+1 || lost < many-flowBacklog {
		t.Errorf("%d came and %d were told as lost, of %d", got, lost, many+1)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTooManyReaders(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	for range maxFlowReaders {
		l.follow(d)
	}
	err := d.FollowFlows(t.Context(), func(FlowRecord, bool) error { return nil })
	if !errors.Is(err, ErrTooManyReaders) {
		t.Errorf("one reader too many: %v", err)
	}
}
