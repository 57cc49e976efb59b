package netdp

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Uplinks are the interfaces to other machines, also those that were found
// behind hosts since Open.
func (d *Datapath) Uplinks() []string { return d.uplinkNames() }

// EthernetUplinks are the uplinks on which neighbours ask for addresses: all but
// tunnels and point-to-point links, which have no hardware address of 6 bytes. One that
// is gone for now counts, since it may come back.
func (d *Datapath) EthernetUplinks() []string {
	return slices.DeleteFunc(d.uplinkNames(), func(name string) bool {
		link, err := d.nl.LinkByName(name)
		return err == nil && len(link.Attrs().HardwareAddr) != ethernetAddress
	})
}

// ethernetAddress is how many bytes a hardware address of Ethernet has.
const ethernetAddress = 6

// UplinkNetworks are the networks that the uplinks' own addresses are in, those of
// a single address left out.
func (d *Datapath) UplinkNetworks() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, name := range d.uplinkNames() {
		link, err := d.nl.LinkByName(name)
		if err != nil {
			continue // it is gone for now; what is behind it cannot be reached
		}
		addrs, err := d.nl.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", name, err)
		}
		for _, a := range addrs {
			addr, ok := netip.AddrFromSlice(a.IP)
			bits, size := a.Mask.Size()
			if ok && a.Scope == unix.RT_SCOPE_UNIVERSE && bits < size {
				out = append(out, netip.PrefixFrom(addr.Unmap(), bits).Masked())
			}
		}
	}
	return out, nil
}

// UplinkHardware are the hardware addresses of the uplinks.
func (d *Datapath) UplinkHardware() []net.HardwareAddr {
	var out []net.HardwareAddr
	for _, name := range d.uplinkNames() {
		if link, err := d.nl.LinkByName(name); err == nil && len(link.Attrs().HardwareAddr) == ethernetAddress {
			out = append(out, link.Attrs().HardwareAddr)
		}
	}
	return out
}

// InHost runs f in the host's network namespace, on a thread of its own.
func (d *Datapath) InHost(f func() error) error { return d.host.do(f) }

// HasService tells whether SetService was last called for the key, and not
// DeleteService.
func (d *Datapath) HasService(key string) bool {
	d.table.mu.Lock()
	defer d.table.mu.Unlock()
	return d.table.byKey[key] != nil
}
