package netdp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"shoal/bpf"
	"shoal/netdp/policy/tables"
	"shoal/test/traffic"
)

// TestTrafficChild is no test of its own: it is a machine that calls.
func TestTrafficChild(t *testing.T) {
	if is, err := traffic.RunChild(); !is {
		t.Skip("only runs as a child of other tests")
	} else if err != nil {
		t.Fatal(err)
	}
}

const (
	setIngress    = tables.FirstID
	profileWeb    = tables.FirstID + 1
	identityOwn   = tables.FirstID + 2
	identityOther = tables.FirstID + 3

	servicesAddr = "10.0.0.10"
)

// liveCell is two hosts with traffic of every kind on the first, whose datapath is
// replaced: through a service's address, to a node port with a backend here and with
// one on the other host, and to the world outside. The server here is isolated: all
// who call it are allowed to but one.
type liveCell struct {
	*cell
	first    *cellHost
	services []Service
	policy   tables.Change
	paths    []traffic.Path // of this process, in the first host's cgroup
	theirs   []traffic.Path // of the machine outside
	stranger namespace
	target   string // what the stranger may not reach
}

func newLiveCell(t testing.TB) *liveCell {
	c := newCell(t, "near-1", "near-2")
	l := &liveCell{cell: c, first: c.hosts[0]}
	c.meet()
	servers := c.servers()
	client, clientIP := l.first.pod(l.first.dp, "client")
	var strangerIP netip.Addr
	l.stranger, strangerIP = l.first.pod(l.first.dp, "stranger")
	c.serveTCP(c.outside, ":80", "world")
	c.serveUDP(c.outside, ":80", "world")
	l.target = servers[0].ip.String() + ":80"
	for _, proto := range []Proto{TCP, UDP} {
		backends := func(pods ...cellPod) (out []Backend) {
			for _, p := range pods {
				out = append(out, Backend{Addr: netip.AddrPortFrom(p.ip, 80)})
			}
			return out
		}
		l.services = append(l.services,
			Service{Key: "all" + proto.String(), Proto: proto, Backends: backends(servers...),
				Frontends: []Frontend{{Addr: netip.MustParseAddr(servicesAddr), Port: 80}}},
			Service{Key: "here" + proto.String(), Proto: proto, Backends: backends(servers[0]), Frontends: []Frontend{{Port: 30080}}},
			Service{Key: "there" + proto.String(), Proto: proto, Backends: backends(servers[1]), Frontends: []Frontend{{Port: 30081}}},
		)
		network := map[Proto]string{TCP: "tcp4", UDP: "udp4"}[proto]
		within := func(ns namespace) func(context.Context, string, string) (net.Conn, error) {
			return func(_ context.Context, network, addr string) (net.Conn, error) { return dial(ns, network, addr) }
		}
		l.paths = append(l.paths,
			traffic.Path{Name: "pod to service by " + network, Network: network, Addr: servicesAddr + ":80", Dial: within(client), Open: 8},
			traffic.Path{Name: "host to service by " + network, Network: network, Addr: servicesAddr + ":80", Dial: within(l.first.host), Open: 8},
			traffic.Path{Name: "pod to the world by " + network, Network: network, Addr: cellOutside + ":80", Dial: within(client), Open: 8},
		)
		l.theirs = append(l.theirs,
			traffic.Path{Name: "outside to a backend here by " + network, Network: network, Addr: l.first.ip.String() + ":30080", Open: 8},
			traffic.Path{Name: "outside to a backend elsewhere by " + network, Network: network, Addr: l.first.ip.String() + ":30081", Open: 8},
		)
	}
	l.policy = tables.Change{
		Complete: true,
		Rules: &tables.Rules{
			Peers:  map[tables.RuleKey]tables.ID{{Set: setIngress, Peer: identityOwn}: profileWeb},
			Blocks: map[tables.BlockKey]tables.ID{{Set: setIngress, Range: netip.MustParsePrefix(cellOutside + "/32")}: profileWeb},
			Ports: map[tables.PortKey]struct{}{
				{Profile: profileWeb, Protocol: uint8(TCP), Port: 80, Bits: 16}: {},
				{Profile: profileWeb, Protocol: uint8(UDP), Port: 80, Bits: 16}: {},
			},
		},
		Peers:    map[netip.Addr]tables.ID{clientIP: identityOwn, strangerIP: identityOther},
		Subjects: map[netip.Addr]tables.Subject{servers[0].ip: {Ingress: setIngress}},
	}
	for _, s := range l.services {
		c.set(s)
	}
	c.must(l.first.dp.SyncComplete())
	c.must(l.first.dp.SetPolicy(l.policy))
	return l
}

// replace closes the first host's datapath, which leaves in the kernel what a kill
// leaves, and opens it again as the options are now. between runs before it is told
// anything.
func (l *liveCell) replace(between func(*Datapath)) {
	l.t.Helper()
	l.must(l.first.dp.Close())
	d, err := Open(context.Background(), l.first.opts)
	l.must(err)
	l.first.dp = d
	if between != nil {
		between(d)
	}
	l.must(d.SetHosts(l.others(l.first)))
	for _, s := range l.services {
		l.must(d.SetService(s))
	}
	l.must(d.SyncComplete())
	l.must(d.SetPolicy(l.policy))
}

// under runs f under traffic, and returns what became of it.
func (l *liveCell) under(f func()) (reports []traffic.Report) {
	l.t.Helper()
	var child *traffic.Child
	cmd := exec.Command(os.Args[0], "-test.run=^TestTrafficChild$")
	l.must(l.outside.do(func() (err error) { // a child starts in its parent thread's namespace
		child, err = traffic.StartChild(cmd, l.theirs)
		return err
	}))
	defer child.Kill()
	l.in(l.first, func() {
		load, err := traffic.Start(context.Background(), l.paths)
		l.must(err)
		l.until("traffic on every path", func() bool { return flows(load.Reports(), 20) })
		f()
		before := load.Reports()
		l.until("traffic goes on", func() bool {
			now := load.Reports()
			for i := range now {
				now[i].Exchanges -= before[i].Exchanges
				now[i].Made -= before[i].Made
			}
			return flows(now, 20)
		})
		reports = load.Stop()
	})
	theirs, err := child.Stop()
	l.must(err)
	return append(reports, theirs...)
}

// flows tells whether each path has had so many exchanges, and so many new
// connections, or has broken ones.
func flows(reports []traffic.Report, n int) bool {
	for _, r := range reports {
		if r.Broken+r.Failed == 0 && (r.Exchanges < n || r.Made < n) {
			return false
		}
	}
	return true
}

func (l *liveCell) wantUnbroken(reports []traffic.Report) {
	l.t.Helper()
	for _, r := range reports {
		l.t.Log(r)
		if r.Broken != 0 || r.Failed != 0 || r.Exchanges == 0 || r.Made == 0 {
			l.t.Errorf("%s: %d of the open connections broke, %d new ones failed: %q", r.Path, r.Broken, r.Failed, r.Errors)
		}
	}
}

// strangerRefused watches that the stranger is, until the function it returns is
// called.
func (l *liveCell) strangerRefused() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for _, network := range []string{"tcp4", "udp4"} {
				if reaches(l.stranger, network, l.target, refusedAfter) {
					l.t.Errorf("the stranger reached the isolated pod by %s", network)
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}

func doubleLimits(specs map[string]*ebpf.MapSpec) {
	for _, s := range specs {
		if s.Type == ebpf.Hash || s.Type == ebpf.LRUHash || s.Type == ebpf.LPMTrie || s.Type == ebpf.Array && s.MaxEntries > 1 {
			s.MaxEntries *= 2
		}
	}
}

// Every limit changes, so every map is made anew, under traffic and policy.
func TestLimitsChangeUnderTraffic(t *testing.T) {
	l := newLiveCell(t)
	stop := l.strangerRefused()
	l.wantUnbroken(l.under(func() {
		for _, alter := range []func(map[string]*ebpf.MapSpec){doubleLimits, nil} { // larger, and small again
			l.first.opts.alterMaps = alter
			l.replace(func(d *Datapath) {
				if d.await != 0 || len(d.set.lost) > 0 || len(d.set.carried) < 20 {
					t.Errorf("awaits %b, carried %v, lost %v", d.await, d.set.carried, d.set.lost)
				}
			})
		}
	}))
	stop()
	l.wantNoOldMaps()
}

func (l *liveCell) wantNoOldMaps() {
	l.t.Helper()
	found, err := names(l.first.dp.pins.mapsDir())
	l.must(err)
	if want := len(layoutNames(l.first.dp.specs)); len(found) != want {
		l.t.Errorf("%d maps are pinned, want the %d of this layout: %q", len(found), want, found)
	}
}

// otherKeys gives maps keys that nothing can be carried into.
func otherKeys(names ...string) func(map[string]*ebpf.MapSpec) {
	return func(specs map[string]*ebpf.MapSpec) {
		for _, name := range names {
			s := specs[name]
			words := &btf.Array{Index: &btf.Int{Name: "index", Size: 4}, Type: &btf.Int{Name: "half", Size: 2}, Nelems: s.KeySize / 2}
			s.Key = words
			if s.Type == ebpf.LPMTrie {
				s.Key = &btf.Struct{Name: "other", Size: s.KeySize, Members: []btf.Member{{Name: "other", Type: words}}}
			}
		}
	}
}

// Maps that the new daemon cannot fill by itself: the old programs serve, and keep
// to the old policies, until it has been told of everything. Who called whom is then
// learnt from the sockets.
func TestMapsBeginAnewUnderTraffic(t *testing.T) {
	l := newLiveCell(t)
	stop := l.strangerRefused()
	var made atomic.Bool
	building := make(chan error, 1)
	l.wantUnbroken(l.under(func() {
		l.first.opts.alterMaps = otherKeys(bpf.DatapathMapFrontends, bpf.DatapathMapPolicySubjects,
			bpf.DatapathMapPods, bpf.DatapathMapInside, bpf.DatapathMapRanges)
		l.must(l.first.dp.Close())
		d, err := Open(context.Background(), l.first.opts)
		l.must(err)
		l.first.dp = d
		go func() {
			_, _, err := d.Attach(context.Background(), "late", "default", "late")
			made.Store(true)
			building <- err
		}()
		for _, step := range []struct {
			name string
			do   func() error
		}{
			{"hosts", func() error { return d.SetHosts(l.others(l.first)) }},
			{"services", func() error {
				for _, s := range l.services {
					l.must(d.SetService(s))
				}
				return d.SyncComplete()
			}},
			{"policy", func() error { return d.SetPolicy(l.policy) }},
		} {
			if made.Load() || d.await == 0 || !d.set.unpinned[bpf.DatapathMapFrontends] {
				t.Errorf("before %s are known: new pod made: %t, awaits %b", step.name, made.Load(), d.await)
			}
			if !reaches(l.first.host, "tcp4", servicesAddr+":80", ioTimeout) {
				t.Errorf("before %s are known the service does not answer", step.name)
			}
			l.must(step.do())
		}
		l.must(<-building)
		if d.await != 0 || len(d.set.unpinned) > 0 {
			t.Errorf("when all is known: awaits %b, not pinned %v", d.await, d.set.unpinned)
		}
	}))
	stop()
	l.wantNoOldMaps()
}

// renamed gives a field of a map's values another name, as when its meaning changes.
func renamed(spec *ebpf.MapSpec, field string) {
	s := *spec.Value.(*btf.Struct)
	s.Members = slices.Clone(s.Members)
	for i, m := range s.Members {
		if m.Name == field {
			s.Members[i].Name = field + "_then"
		}
	}
	spec.Value = &s
}

// A socket that goes on to another service while the older programs still serve has the
// name of that one after the switch.
func TestSocketsChangeBeforeTheSwitch(t *testing.T) {
	l := newLab(t)
	d := l.open()
	_, serverIP := l.pod(d, "server")
	client, _ := l.pod(d, "client")
	var services []Service
	for _, addr := range []string{"10.0.0.53", "10.0.0.54"} {
		s := Service{Key: addr, Proto: UDP, Frontends: []Frontend{{Addr: netip.MustParseAddr(addr), Port: 53}},
			Backends: []Backend{{Addr: netip.AddrPortFrom(serverIP, 53)}}}
		services = append(services, s)
		l.must(d.SetService(s))
	}
	conn, err := dial(client, "udp4", "10.0.0.53:53")
	l.must(err)
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	l.must(err)
	l.must(d.Close())
	l.opts.alterMaps = func(specs map[string]*ebpf.MapSpec) {
		otherKeys(bpf.DatapathMapFrontends)(specs)
		renamed(specs[bpf.DatapathMapSocketPeer], "backend")
	}
	d = l.openUntilEnd()
	if d.await != awaitServices {
		t.Fatalf("awaits %b", d.await)
	}
	const then = "10.0.0.54:53"
	control := func(f func(fd int) error) {
		t.Helper()
		var failed error
		err := raw.Control(func(fd uintptr) { failed = f(int(fd)) })
		l.must(errors.Join(err, failed))
	}
	control(func(fd int) error {
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddrPort(then).Addr().As4(), Port: 53})
	})
	for _, s := range services {
		l.must(d.SetService(s))
	}
	l.must(d.SyncComplete())
	var peer unix.Sockaddr
	control(func(fd int) (err error) { peer, err = unix.Getpeername(fd); return err })
	if p := peer.(*unix.SockaddrInet4); netip.AddrPortFrom(netip.AddrFrom4(p.Addr), uint16(p.Port)).String() != then {
		t.Errorf("the socket's peer is %v:%d, want %s", p.Addr, p.Port, then)
	}
}

// What a socket asked for is in its own storage, which goes over as well: a socket that
// was connected to a service has its address as peer, and answers to one that is not
// connected come from it.
func TestSocketsKeepTheirServices(t *testing.T) {
	l := newLab(t)
	d := l.open()
	server, serverIP := l.pod(d, "server")
	client, _ := l.pod(d, "client")
	var pc net.PacketConn
	l.must(server.do(func() (err error) { pc, err = net.ListenPacket("udp4", ":53"); return err }))
	defer pc.Close()
	const addr = "10.0.0.53:53"
	service := Service{Key: "dns", Proto: UDP, Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.53"), Port: 53}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(serverIP, 53)}}}
	l.must(d.SetService(service))
	connected, err := dial(client, "udp4", addr)
	l.must(err)
	defer connected.Close()
	var free net.PacketConn
	l.must(client.do(func() (err error) { free, err = net.ListenPacket("udp4", ":0"); return err }))
	defer free.Close()
	_, err = free.WriteTo([]byte("question"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	l.must(err)
	buf := make([]byte, 64)
	l.must(errors.Join(pc.SetDeadline(deadline()), free.SetDeadline(deadline())))
	_, caller, err := pc.ReadFrom(buf)
	l.must(err)

	l.must(d.Close())
	l.opts.alterMaps = func(specs map[string]*ebpf.MapSpec) {
		renamed(specs[bpf.DatapathMapSocketPeer], "backend")
		renamed(specs[bpf.DatapathMapSocketSent], "next")
	}
	d = l.openUntilEnd()
	if !d.set.carried[bpf.DatapathMapSocketPeer] || !d.set.carried[bpf.DatapathMapSocketSent] {
		t.Errorf("carried %v, lost %v", d.set.carried, d.set.lost)
	}
	_, err = pc.WriteTo([]byte("answer"), caller)
	l.must(err)
	if _, from, err := free.ReadFrom(buf); err != nil || from.String() != addr {
		t.Errorf("the answer comes from %v, %v; want %s", from, err, addr)
	}
	raw, err := connected.(*net.UDPConn).SyscallConn()
	l.must(err)
	var peer unix.Sockaddr
	l.must(errors.Join(raw.Control(func(fd uintptr) { peer, err = unix.Getpeername(int(fd)) }), err))
	if p := peer.(*unix.SockaddrInet4); netip.AddrPortFrom(netip.AddrFrom4(p.Addr), uint16(p.Port)).String() != addr {
		t.Errorf("the socket's peer is %v:%d, want %s", p.Addr, p.Port, addr)
	}
}
