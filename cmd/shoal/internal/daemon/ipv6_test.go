package daemon

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An address is this host's once it lasts, and for as long as it is there.
func TestLastingAddress(t *testing.T) {
	const old, fresh = "2001:db8::1", "2001:db8::2"
	addr := func(ip string, flags, scope int) netlink.Addr {
		return netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(64, 128)}, Flags: flags, Scope: scope}
	}
	link := addr("fe80::1", 0, unix.RT_SCOPE_LINK)
	for _, c := range []struct {
		name  string
		sixes []netlink.Addr
		was   string
		want  string
	}{
		{"none", []netlink.Addr{link}, "", ""},
		{"one that is still asked about", []netlink.Addr{link, addr(fresh, unix.IFA_F_TENTATIVE, 0)}, "", ""},
		{"one that comes and goes", []netlink.Addr{addr(old, unix.IFA_F_TEMPORARY, 0), addr(fresh, 0, 0)}, "", fresh},
		{"another beside it", []netlink.Addr{addr(fresh, 0, 0), addr(old, 0, 0)}, old, old},
		{"it is deprecated", []netlink.Addr{addr(fresh, 0, 0), addr(old, unix.IFA_F_DEPRECATED, 0)}, old, old},
		{"it is gone", []netlink.Addr{addr(fresh, 0, 0)}, old, fresh},
		{"somebody else has it", []netlink.Addr{addr(old, unix.IFA_F_DADFAILED, 0)}, old, ""},
	} {
		var was []netip.Addr
		if c.was != "" {
			was = []netip.Addr{netip.MustParseAddr(c.was)}
		}
		got := lasting(c.sixes, was)
		if want, _ := netip.ParseAddr(c.want); got != want {
			t.Errorf("%s: %v, want %q", c.name, got, c.want)
		}
	}
}
