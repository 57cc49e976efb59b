package netdp

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stateLosses are what somebody may take away of a host's network by hand.
var stateLosses = []struct {
	name   string
	breaks func(l *lab, d *Datapath) error
	found  []string
	quiet  bool // the kernel says nothing of it
}{
	{"a pod's route", func(l *lab, d *Datapath) error {
		return d.nl.RouteDel(&netlink.Route{Dst: hostNet(l.podAddr(d, "client", false)), Scope: netlink.SCOPE_LINK})
	}, []string{"the route to pod default/client (10.64.7.2) was removed"}, false},
	{"a pod's IPv6 route", func(l *lab, d *Datapath) error {
		return d.nl.RouteDel(&netlink.Route{Dst: hostNet(l.podAddr(d, "client", true))})
	}, []string{"the route to pod default/client (fd00:64:7::2) was removed"}, false},
	{"a pod's route leads elsewhere", func(l *lab, d *Datapath) error {
		lo, err := d.nl.LinkByName("lo")
		return errors.Join(err, d.nl.RouteReplace(&netlink.Route{
			Dst: hostNet(l.podAddr(d, "client", false)), LinkIndex: lo.Attrs().Index, Scope: netlink.SCOPE_LINK}))
	}, []string{"the route to pod default/client (10.64.7.2) was removed"}, false},
	{"all routes to pods", func(l *lab, d *Datapath) error {
		return errors.Join(
			d.nl.RouteDel(&netlink.Route{Dst: hostNet(l.podAddr(d, "server", false)), Scope: netlink.SCOPE_LINK}),
			d.nl.RouteDel(&netlink.Route{Dst: hostNet(l.podAddr(d, "client", false)), Scope: netlink.SCOPE_LINK}))
	}, []string{"the routes to 2 pods were removed: default/client (10.64.7.2), default/server (10.64.7.1)"}, false},
	{"a pod's link is set down", func(l *lab, d *Datapath) error {
		link, err := d.nl.LinkByName(hostLinkName("client"))
		return errors.Join(err, d.nl.LinkSetDown(link))
	}, []string{"the link of pod default/client was set down"}, false},
	{"the range's route", func(l *lab, d *Datapath) error { return d.nl.RouteDel(podRoute(d.opts.PodCIDR)) },
		[]string{"the route for 10.64.7.0/24 was removed"}, false},
	{"the range's IPv6 route", func(l *lab, d *Datapath) error { return d.nl.RouteDel(podRoute(d.opts.PodCIDR6)) },
		[]string{"the route for fd00:64:7::/64 was removed"}, false},
	{"the route that silences the server's address", func(l *lab, d *Datapath) error {
		return d.nl.RouteDel(silence(d.opts.PodCIDR.Addr()))
	}, []string{"the route for 10.64.7.0/32 was removed"}, false},
	{"the server's address", func(l *lab, d *Datapath) error {
		lo, err := d.nl.LinkByName("lo")
		return errors.Join(err, d.nl.AddrDel(lo, serverAddr(d.opts.PodCIDR.Addr())))
	}, []string{"address 10.64.7.0 of lo was removed"}, false},
	{"the host's IPv6 address among its pods", func(l *lab, d *Datapath) error {
		lo, err := d.nl.LinkByName("lo")
		return errors.Join(err, d.nl.AddrDel(lo, standInAddr(d.opts.PodCIDR6.Addr())))
	}, []string{"address fd00:64:7:: of lo was removed"}, false},
	{"forwarding of an uplink", func(l *lab, d *Datapath) error {
		return l.host.do(func() error { return writeSysctl("0", "net/ipv4/conf", labUplink, "forwarding") })
	}, []string{"net.ipv4.conf.up0.forwarding (to 0) was changed"}, false},
	{"forwarding of all", func(l *lab, d *Datapath) error {
		return l.host.do(func() error { // from 0 to 0 nothing is changed
			return errors.Join(writeSysctl("1", "net/ipv4/ip_forward"), writeSysctl("0", "net/ipv4/ip_forward"))
		})
	}, []string{"3 kernel settings were changed: net.ipv4.conf." + hostLinkName("client") + ".forwarding (to 0), net.ipv4.conf." +
		hostLinkName("server") + ".forwarding (to 0), net.ipv4.conf.up0.forwarding (to 0)"}, false},
	{"forwarding of IPv6", func(l *lab, d *Datapath) error {
		return l.host.do(func() error { return writeSysctl("0", "net/ipv6/conf/all/forwarding") })
	}, []string{"net.ipv6.conf.all.forwarding (to 0) was changed"}, false},
	{"a pod's router advertisements are believed", func(l *lab, d *Datapath) error {
		return l.host.do(func() error { return writeSysctl("2", "net/ipv6/conf", hostLinkName("client"), "accept_ra") })
	}, []string{"net.ipv6.conf." + hostLinkName("client") + ".accept_ra (to 2) was changed"}, true},
	{"IPv6 of a pod's link", func(l *lab, d *Datapath) error {
		return l.host.do(func() error { return writeSysctl("1", "net/ipv6/conf", hostLinkName("client"), "disable_ipv6") })
	}, []string{"net.ipv6.conf." + hostLinkName("client") + ".disable_ipv6 (to 1) was changed",
		"the route to pod default/client (fd00:64:7::2) was removed"}, false},
}

// What somebody takes away of routes, addresses and settings is named and put back.
func TestRepairOfState(t *testing.T) {
	for _, c := range stateLosses {
		t.Run(c.name, func(t *testing.T) {
			l, d := stateLab(t)
			l.must(c.breaks(l, d))
			l.checkRepairs(d, c.found)
			l.checkState(d)
		})
	}
}

// What the kernel tells of is put back without any round, and nobody is told of more
// than was taken away.
func TestKeepState(t *testing.T) {
	l, d := stateLab(t)
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan Repair, 100), make(chan error, 1)
	go func() { done <- d.keepAttached(ctx, time.Hour, func(r Repair) { told <- r }) }()
	for _, c := range stateLosses {
		if c.quiet {
			continue
		}
		d.contests.mu.Lock() // each is the first of its kind
		clear(d.contests.known)
		d.contests.mu.Unlock()
		l.must(c.breaks(l, d))
		// What goes one by one may be told one by one.
		var left []string
		for _, f := range c.found {
			_, names, several := strings.Cut(f, ": ")
			if !several {
				names = f
			}
			left = append(left, strings.Split(names, ", ")...)
		}
		for len(left) > 0 {
			var r Repair
			select {
			case r = <-told:
			case <-time.After(ioTimeout):
				t.Fatalf("%s: told of nothing, and %q is left", c.name, left)
			}
			was := len(left)
			left = slices.DeleteFunc(left, func(name string) bool { return strings.Contains(r.What, name) })
			if r.Err != nil || len(left) == was {
				t.Fatalf("%s: told of %v, and %q is left", c.name, r, left)
			}
		}
	}
	cancel()
	l.must(<-done)
}

// Who takes something away again and again is told of, and does not keep shoal busy.
func TestRepairOfContestedState(t *testing.T) {
	l, d := stateLab(t)
	addr := l.podAddr(d, "client", false)
	for n := range contestedAfter {
		if got := d.Contested(); len(got) > 0 {
			t.Fatalf("contested after %d times: %q", n, got)
		}
		l.must(d.nl.RouteDel(&netlink.Route{Dst: hostNet(addr), Scope: netlink.SCOPE_LINK}))
		if n > 0 { // at once it is too early
			if found, held := d.repair(parts{state: true}); len(found) > 0 || !held {
				t.Fatalf("found %v, held %t", found, held)
			}
			d.contests.mu.Lock()
			for what, c := range d.contests.known {
				d.contests.known[what] = contest{c.times, c.last.Add(-c.wait())}
			}
			d.contests.mu.Unlock()
		}
		if found := d.Repair(); len(found) != 1 || found[0].Err != nil {
			t.Fatalf("found %v", found)
		}
	}
	if got, want := d.Contested(), []string{"the route to pod default/client (10.64.7.2) was removed"}; !slices.Equal(got, want) {
		t.Errorf("contested are %q, want %q", got, want)
	}
}

// A daemon that ends takes the server's address away, and no repair brings it back.
func TestRepairAfterTheServer(t *testing.T) {
	l, d := stateLab(t)
	l.must(d.withdrawServer())
	if found := d.Repair(); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

// A tunnel's address and settings come back too.
func TestRepairOfTunnelState(t *testing.T) {
	c := newCell(t)
	c.addHost(1, "one")
	c.addHost(2, "far-two")
	c.meet()
	l, d := c.hosts[0].lab, c.hosts[0].dp
	if found := d.Repair(); len(found) > 0 {
		t.Fatalf("found %v where nothing is missing", found)
	}
	l.must(l.host.do(func() error { return writeSysctl("1", "net/ipv4/conf", tunnelDevice, "rp_filter") }))
	link, err := d.nl.LinkByName(tunnelDevice)
	l.must(errors.Join(err, d.nl.AddrDel(link, serverAddr(tunnelAddress))))
	var got []string
	for _, r := range d.Repair() {
		l.must(r.Err)
		got = append(got, r.What)
	}
	if want := []string{"net.ipv4.conf.shoal-vxlan.rp_filter (to 1) was changed", "address 169.254.115.1 of shoal-vxlan was removed"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if found := d.Repair(); len(found) > 0 {
		t.Errorf("after the repair: %v", found)
	}
	// The gathering link: its program, and its ends.
	ends, err := d.findGather()
	l.must(err)
	filters, err := d.nl.FilterList(ends[1], netlink.HANDLE_MIN_INGRESS)
	l.must(err)
	for _, f := range filters {
		l.must(d.nl.FilterDel(f))
	}
	if found := d.Repair(); len(found) != 1 || found[0].Err != nil || found[0].What != "program gather_ingress of shoal-gathered was detached" {
		t.Errorf("without a program: %v", found)
	}
	l.must(d.nl.LinkSetDown(ends[0]))
	l.must(d.SetHosts(c.others(c.hosts[0])))
	ends, err = d.findGather()
	var index uint32
	if l.must(errors.Join(err, d.gather.Get(&index))); len(ends) != 2 || int(index) != ends[0].Attrs().Index {
		t.Errorf("after an end was down: ends %v, the programs send by %d", ends, index)
	}
}

// stateLab is that of repairs, with IPv6 and a server.
func stateLab(t *testing.T) (*lab, *Datapath) {
	t.Helper()
	l, d := repairLabWith(t, func(l *lab) { l.opts.PodCIDR6 = netip.MustParsePrefix(labPods6) }, (*lab).openUntilEnd)
	_, err := d.ServerAddress()
	l.must(err)
	if found := d.Repair(); len(found) != 0 {
		t.Fatalf("found %v where nothing is missing", found)
	}
	return l, d
}

func (l *lab) podAddr(d *Datapath, uid string, v6 bool) netip.Addr {
	l.t.Helper()
	d.pods.mu.Lock()
	defer d.pods.mu.Unlock()
	for _, a := range d.pods.byUID[uid].record.addresses() {
		if a.Is6() == v6 {
			return a
		}
	}
	l.t.Fatalf("pod %s has no such address", uid)
	return netip.Addr{}
}

// checkState looks at the kernel with other questions than the repair.
func (l *lab) checkState(d *Datapath) {
	l.t.Helper()
	for _, uid := range []string{"client", "server"} {
		link, err := d.nl.LinkByName(hostLinkName(uid))
		l.must(err)
		for _, v6 := range []bool{false, true} {
			addr := l.podAddr(d, uid, v6)
			routes, err := d.nl.RouteGet(addr.AsSlice())
			if err != nil || len(routes) != 1 || routes[0].LinkIndex != link.Attrs().Index {
				l.t.Errorf("the way to %s is %v, %v", addr, routes, err)
			}
		}
	}
	l.must(l.host.do(func() error {
		for _, path := range []string{"ipv4/conf/" + labUplink, "ipv4/conf/" + hostLinkName("client"), "ipv6/conf/all"} {
			value, err := os.ReadFile("/proc/sys/net/" + path + "/forwarding")
			if err != nil || string(value) != "1\n" {
				l.t.Errorf("forwarding of %s is %q, %v", path, value, err)
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(lo, unix.AF_INET)
		if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
			return a.IP.Equal(d.opts.PodCIDR.Addr().AsSlice()) && a.Scope == unix.RT_SCOPE_HOST
		}) {
			l.t.Errorf("loopback has %v", addrs)
		}
		sixes, listErr := netlink.AddrList(lo, unix.AF_INET6)
		if !slices.ContainsFunc(sixes, func(a netlink.Addr) bool {
			return a.IP.Equal(d.opts.PodCIDR6.Addr().AsSlice()) && a.Flags&unix.IFA_F_DEPRECATED != 0
		}) {
			l.t.Errorf("loopback has %v", sixes)
		}
		return errors.Join(err, listErr)
	}))
}

// BenchmarkRepairOfState is a look at everything of a host's network, with nothing lost.
func BenchmarkRepairOfState(b *testing.B) {
	const pods = 100
	l := newLab(b)
	l.opts.PodCIDR6 = netip.MustParsePrefix(labPods6)
	d := l.openUntilEnd()
	l.must(d.SyncComplete())
	_, err := d.ServerAddress()
	l.must(err)
	for i := range pods {
		_, _, err := d.Attach(b.Context(), "pod-"+string(rune('a'+i%26))+string(rune('a'+i/26)), "default", "pod")
		l.must(err)
	}
	for b.Loop() {
		if found, held := d.repair(parts{state: true}); len(found) != 0 || held {
			b.Fatalf("found %v", found)
		}
	}
}
