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
// this machine has. It is on loopback until Close; from then on what pods send
// there vanishes, so that they ask again until the next daemon answers. A closed
// port would tell them at once that there is nobody; where the daemon was killed,
// bpf/silence.h keeps that from them.
func (d *Datapath) ServerAddress() (netip.Addr, error) {
	addr := d.opts.PodCIDR.Addr()
	d.serving.Lock()
	defer d.serving.Unlock()
	lo, err := d.nl.LinkByName("lo")
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find loopback: %w", err)
	}
	if err := d.nl.RouteReplace(silence(addr)); err != nil {
		return netip.Addr{}, fmt.Errorf("add route for %s: %w", addr, err)
	}
	if err := d.nl.AddrReplace(lo, serverAddr(addr)); err != nil {
		return netip.Addr{}, fmt.Errorf("put %s on loopback: %w", addr, err)
	}
	d.serves = true
	return addr, nil
}

// serverAddr is of this host alone: the kernel takes it for no connection of
// the host's own programs to others.
func serverAddr(addr netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: hostNet(addr), Scope: unix.RT_SCOPE_HOST}
}

// silence counts while the address is not on loopback.
func silence(addr netip.Addr) *netlink.Route {
	return &netlink.Route{Type: unix.RTN_BLACKHOLE, Dst: hostNet(addr)}
}

// withdrawServer takes the address back, if it was given.
func (d *Datapath) withdrawServer() error {
	d.serving.Lock()
	defer d.serving.Unlock()
	if !d.serves {
		return nil
	}
	d.serves = false
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

// removeServer leaves nothing of it.
func (d *Datapath) removeServer() error {
	d.serving.Lock()
	d.serves = true // maybe an earlier daemon, which was killed
	d.serving.Unlock()
	err := d.withdrawServer()
	route := d.nl.RouteDel(silence(d.opts.PodCIDR.Addr()))
	if errors.Is(route, unix.ESRCH) {
		route = nil
	}
	return errors.Join(err, named("remove route for the server's address", route))
}

// IsLocal tells whether an address is of a pod of this host or of the host. A
// program of the host that calls ServerAddress has it as its own address too.
func (d *Datapath) IsLocal(addr netip.Addr) bool {
	return d.opts.PodCIDR.Contains(addr) || d.opts.PodCIDR6.Contains(addr) || d.routed.has(addr) || addr.IsLoopback() || slices.Contains(d.own.Load().node, addr)
}
