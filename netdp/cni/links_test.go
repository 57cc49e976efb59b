package cni

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestLinksWithin: what the bridge plugin leaves is found, and nothing else.
func TestLinksWithin(t *testing.T) {
	l := newLab(t)
	l.configure()
	l.attach("a")
	l.detach("a")
	l.nothingLeft()
	l.inside(l.host, func() error { // as shoal has it
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("10.64.7.0/32")
		return netlink.AddrAdd(lo, addr)
	})
	for within, want := range map[string]int{"10.64.0.0/10": 1, "10.64.7.0/24": 1, "10.64.8.0/24": 0, "fd00::/8": 0} {
		got, err := l.o.LinksWithin(netip.Prefix{}, netip.MustParsePrefix(within))
		if err != nil || len(got) != want || want == 1 && got[0] != (Link{"cni0", netip.MustParseAddr("10.64.7.1")}) {
			t.Errorf("within %s: %v, %v", within, got, err)
		}
	}
}
