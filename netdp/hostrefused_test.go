package netdp

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is for pods of a host without a way leaves by no wider route, from pods nor from
// the host itself; it is as before when there is a way again, and when the host has left.
func TestPodsWithoutWayAreRefused(t *testing.T) {
	c := newDualCell(t, "near1", "near2")
	first := c.hosts[0]
	lost := Host{Name: "lost", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.9")},
		PodCIDR: netip.MustParsePrefix("10.64.99.0/24"), PodCIDR6: netip.MustParsePrefix("fd00:64:99::/64")}
	c.must(first.host.do(func() error { return unreachableRoute("203.0.113.0/24") }))
	pod := c.servers6()[0]
	refused := func() (n int) {
		t.Helper()
		have, err := first.dp.hostRoutes()
		c.must(err)
		for key, to := range have {
			if key.dst == lost.PodCIDR || key.dst == lost.PodCIDR6 {
				if !to.refused {
					t.Errorf("%s is led to %+v", key.dst, to)
				}
				n++
			}
		}
		return n
	}
	leaves := func(when string, want bool) {
		t.Helper()
		for who, ns := range map[string]namespace{"the host": first.host, "a pod": pod.ns} {
			for network, to := range map[string]string{"udp4": "10.64.99.7:80", "udp6": "[fd00:64:99::7]:80"} {
				plain, err := 0, error(nil)
				// The first waits until the next hop's link address is known.
				for until := deadline(); ; {
					tap := c.tap()
					_, err = c.say(first, ns, network, to, 300*time.Millisecond)
					if plain, _ = tap.counts(); plain > 0 || !want || time.Now().After(until) {
						break
					}
				}
				if (plain > 0) != want {
					t.Errorf("%s, %s to %s: %d packets left, %v", when, who, to, plain, err)
				}
				if want {
					continue
				}
				// A datagram's sender need not heed the refusal (RFC 1122, section 4.1.3.3).
				_, err = c.say(first, ns, "tcp"+familyName(to), to, ioTimeout)
				if !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
					t.Errorf("%s, %s to %s: %v", when, who, to, err)
				}
			}
		}
	}
	c.meet()
	leaves("nobody knows the host", true)
	c.must(first.dp.SetHosts(append(c.others(first), lost)))
	if r := c.path(first, "lost"); r.Path != PathUnreachable || refused() != 2 {
		t.Fatalf("the way is %+v, and %d ranges are refused", r, refused())
	}
	leaves("without a way", false)

	found := lost // on the link by now
	found.Addresses = []netip.Addr{netip.MustParseAddr("198.18.0.77"), netip.MustParseAddr("2001:db8:18::77")}
	hosts := byFamily(append(c.others(first), found), true)
	plan := func() []HostRoute { return planHosts(hosts, first.dp.hostRules(), first.dp.newReach().find) }
	c.must(first.dp.SetHosts(append(c.others(first), found)))
	have, err := first.dp.hostRoutes()
	c.must(err)
	for key, to := range have {
		if to.refused {
			t.Errorf("with a way, %s is refused", key.dst)
		}
	}

	// A route that the kernel refuses.
	routes := plan()
	for i := range routes {
		if r := &routes[i]; r.Host == "lost" {
			r.Via = map[bool]netip.Addr{false: netip.MustParseAddr("203.0.113.9"), true: netip.MustParseAddr("2001:db8:99::9")}[r.Via.Is6()]
		}
	}
	if err := first.dp.applyHosts(hosts, routes); err == nil || refused() != 2 {
		t.Errorf("with routes that fail: %v, and %d ranges are refused", err, refused())
	}
	c.must(first.dp.SetHosts(c.others(first)))
	if refused() != 0 {
		t.Error("a host that left is still refused")
	}
}
