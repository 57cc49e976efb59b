package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ServerAddress is an address of this host for what the daemon itself serves to
// its pods: the first of the pod range, which no pod gets and no other daemon on
// this machine has. It is put on loopback, and stays there until Remove.
func (d *Datapath) ServerAddress() (netip.Addr, error) {
	addr := d.opts.PodCIDR.Addr()
	lo, err := d.nl.LinkByName("lo")
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find loopback: %w", err)
	}
	if err := d.nl.AddrReplace(lo, serverAddr(addr)); err != nil {
		return netip.Addr{}, fmt.Errorf("put %s on loopback: %w", addr, err)
	}
	return addr, nil
}

// serverAddr is of this host alone: the kernel takes it for no connection of
// the host's own programs to others.
func serverAddr(addr netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: hostNet(addr), Scope: unix.RT_SCOPE_HOST}
}

func (d *Datapath) removeServerAddress() error {
	lo, err := d.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	addr := d.opts.PodCIDR.Addr()
	if err := d.nl.AddrDel(lo, serverAddr(addr)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("take %s off loopback: %w", addr, err)
	}
	return nil
}

// IsLocal tells whether an address is of a pod of this host or of the host. A
// program of the host that calls ServerAddress has it as its own address too.
func (d *Datapath) IsLocal(addr netip.Addr) bool {
	return d.opts.PodCIDR.Contains(addr) || addr.IsLoopback() || slices.Contains(d.opts.NodeIPs, addr)
}
