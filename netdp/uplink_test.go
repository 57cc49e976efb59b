package netdp

import (
	"testing"

	"github.com/vishvananda/netlink"

	"shoal/bpf"
)

// An interface that holds no address of the node is known again only with hosts and
// routes, but has this daemon's programs as soon as its maps are in use.
func TestSwitchTakesEveryUplink(t *testing.T) {
	for name, noTCX := range map[string]bool{"links": false, "filters": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.opts.noTCX = noTCX
			add := func() {
				t.Helper()
				l.must(l.host.do(func() error {
					return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up.1"}, PeerName: "peer"})
				}))
			}
			add()
			d := l.open()
			l.must(d.addUplink("up.1"))
			l.must(d.Close())

			l.opts.alterMaps = doubleLimits
			d = l.open()
			dev, err := d.nl.LinkByName("up.1")
			l.must(err)
			for _, side := range uplinkSides {
				if noTCX {
					if ok, err := d.hasFilter(dev, side.parent, side.program, d.progs[side.program]); err != nil || !ok {
						t.Errorf("%s is this daemon's: %t, %v", side.program, ok, err)
					}
				} else if state, err := d.links.stateOf(d.pins.link(side.program+"-up.1"), d.progs[side.program]); err != nil || state != linkFine {
					t.Errorf("%s is this daemon's: %v, %v", side.program, state, err)
				}
			}
			l.must(d.Close())

			// Another device of the name is not ours.
			l.must(l.host.do(func() error { return netlink.LinkDel(dev) }))
			d = l.open()
			l.must(d.Close())
			add()
			d = l.openUntilEnd()
			if has, err := d.earlierUplinks(); err != nil || len(has) != 0 {
				t.Errorf("earlier uplinks: %v, %v", has, err)
			}
			dev, err = d.nl.LinkByName("up.1")
			l.must(err)
			if ok, err := d.hasFilter(dev, netlink.HANDLE_MIN_INGRESS, bpf.DatapathProgUplinkIngress, d.progs[bpf.DatapathProgUplinkIngress]); err != nil || ok {
				t.Errorf("a device that was made anew has our program: %t, %v", ok, err)
			}
		})
	}
}
