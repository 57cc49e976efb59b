package netdp

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Nobody asks for an address on a link without Ethernet addresses; one that is gone
// for now may come back.
func TestEthernetUplinks(t *testing.T) {
	l := newLab(t)
	d := &Datapath{uplinks: []string{"ether0", "tunnel0", "gone0"}}
	l.must(l.host.do(func() (err error) {
		if d.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ether0"}, PeerName: "ether1"}); err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tunnel0"}, Mode: netlink.TUNTAP_MODE_TUN})
	}))
	defer d.nl.Close()
	if got := d.EthernetUplinks(); !slices.Equal(got, []string{"ether0", "gone0"}) {
		t.Errorf("addresses are announced on %q", got)
	}
	if got := d.UplinkHardware(); len(got) != 1 {
		t.Errorf("hardware addresses are %q", got)
	}
	if got := d.Uplinks(); len(got) != 3 {
		t.Errorf("uplinks are %q", got)
	}
}
