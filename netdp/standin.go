package netdp

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/netdp/podfile"
)

// A host whose Node has no IPv6 address stands in for one with the first of its pods'
// IPv6 range, which no pod gets: without any source it could call no pod of IPv6, its
// own included. Other hosts' pods answer it as they answer that range. It is on loopback,
// and deprecated (RFC 4862 section 5.5.4), so that the kernel takes it for nothing else
// as long as there is another; nobody outside the cell knows a way to it.
//
// It outlives the daemon with the connections it is used for, and stays, for these,
// when the host gets an address of its own.

func (d *Datapath) savedStandInPath() string { return filepath.Join(d.opts.StateDir, "ipv6-address") }

// takeStandIn also gives back what an earlier daemon took of another range. Open calls
// it, and SetNodeIPs.
func (d *Datapath) takeStandIn() error {
	was, err := d.savedStandIn()
	if err != nil {
		return err
	}
	addr := netip.Addr{}
	if p := d.opts.PodCIDR6; p.IsValid() {
		addr = p.Addr()
	}
	if was.IsValid() && was != addr {
		if err := d.removeStandIn(); err != nil {
			return err
		}
	}
	_, own := d.nodeIP(true)
	if !addr.IsValid() || own && !(was == addr && d.ownsAddress(addr)) {
		return nil
	}
	if err := podfile.Replace(d.savedStandInPath(), []byte(addr.String())); err != nil {
		return fmt.Errorf("save address of this host: %w", err)
	}
	lo, err := d.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := d.nl.AddrReplace(lo, standInAddr(addr)); err != nil {
		d.log.Warn("this host cannot call pods by IPv6: it has no IPv6 address, and loopback takes none", "address", addr.String(), "error", err)
		return nil
	}
	d.own.Store(&ownAddresses{node: d.own.Load().node, standIn: addr})
	return nil
}

func (d *Datapath) savedStandIn() (addr netip.Addr, err error) {
	data, err := os.ReadFile(d.savedStandInPath())
	if errors.Is(err, os.ErrNotExist) {
		return addr, nil
	}
	if err == nil {
		err = addr.UnmarshalText(data)
	}
	return addr, named("read saved address of this host", err)
}

func standInAddr(addr netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: hostNet(addr), Flags: unix.IFA_F_NODAD, ValidLft: math.MaxUint32, PreferedLft: 0}
}

func (d *Datapath) removeStandIn() error {
	was, err := d.savedStandIn()
	if err != nil || !was.IsValid() {
		return err
	}
	lo, err := d.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := d.nl.AddrDel(lo, standInAddr(was)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("take %s off loopback: %w", was, err)
	}
	return os.Remove(d.savedStandInPath())
}
