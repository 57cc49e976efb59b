package loadbalancer

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestPoolsInTheCellsRanges: of a pool only what lies outside the cell's own
// ranges is tried, however large the rest is.
func TestPoolsInTheCellsRanges(t *testing.T) {
	own := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48")}
	for _, test := range []struct {
		name      string
		addresses []string
		want      string
		overlaps  string
	}{
		{"outside", []string{"192.0.2.1", "2001:db8::1"}, "draw 1 or AddressPoolEmpty, draw 1 or AddressPoolEmpty", ""},
		{"within", []string{"192.0.2.1", "2001:db8:1:2::/64"}, "draw 1 or AddressPoolEmpty, " + ReasonEmpty,
			"2001:db8:1:2::1-2001:db8:1:2:ffff:ffff:ffff:ffff overlaps the cell's own range 2001:db8:1::/48"},
		{"in part", []string{"9.255.255.254-11.0.0.2", "2001:db8:1::-2001:db8:2::4"}, "draw 5 or AddressPoolEmpty, draw 5 or AddressPoolEmpty",
			"9.255.255.254-11.0.0.2 overlaps the cell's own range 10.0.0.0/8, 2001:db8:1::-"},
		{"many", []string{"10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"}, "AddressPoolEmpty, NoAddressPool",
			"10.1.0.3-10.1.0.3 overlaps the cell's own range 10.0.0.0/8, 2 more do;"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, tried := pool(t, "p", nil, test.addresses...), 0
			used := func(a netip.Addr) string {
				tried++
				if slices.ContainsFunc(own, func(r netip.Prefix) bool { return r.Contains(a) }) {
					return "in the cell's own range"
				}
				return ""
			}
			choices, err := plan(service(dual), nil, cell{pools: []Pool{p}, used: used, own: own})
			if got := outcome(choices, err); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
			if tried > 10 {
				t.Errorf("%d addresses were tried", tried)
			}
			if got := p.overlaps(own); !strings.Contains(got, test.overlaps) || (got == "") != (test.overlaps == "") {
				t.Errorf("it says %q of its ranges, want %q", got, test.overlaps)
			}
		})
	}
}

// TestDrawEnds: no more is tried of a large pool than can be taken.
func TestDrawEnds(t *testing.T) {
	p := pool(t, "p", nil, "2001:db8::/64")
	ipv6 := service(func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} })
	tried := 0
	choices, err := plan(ipv6, nil, cell{pools: []Pool{p}, taken: 10, used: func(netip.Addr) string {
		tried++
		return "an address of host h"
	}})
	if err != nil {
		t.Fatal(err)
	}
	for a := range choices[0].draw {
		t.Errorf("%s was drawn", a)
	}
	if tried != 10+spareTries {
		t.Errorf("%d addresses were tried, want %d", tried, 10+spareTries)
	}
}

func TestWhatMayBeDrawn(t *testing.T) {
	choices, err := plan(service(), nil, cell{
		pools: []Pool{pool(t, "p", nil, "192.0.2.0-192.0.2.9", "2001:db8::1")},
		own:   []netip.Prefix{netip.MustParsePrefix("192.0.2.0/30")},
		used:  func(a netip.Addr) string { return map[string]string{"192.0.2.5": "an address of host h"}[a.String()] },
	})
	if err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]bool{
		"192.0.2.3": false, "192.0.2.4": true, "192.0.2.5": false, "192.0.2.9": true, "192.0.2.10": false, "2001:db8::1": false,
	} {
		if choices[0].may(netip.MustParseAddr(a)) != want {
			t.Errorf("%s may be drawn: %t", a, !want)
		}
	}
}
