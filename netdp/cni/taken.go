package cni

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// holder is the pod that has an address.
type holder struct{ uid, pod string }

// take notes a pod's addresses as its own. Those that somebody else has are an error:
// whoever calls them would reach one of the two, and at a service's nobody would reach
// the pod.
func (d *Driver) take(rec record) error {
	for _, addr := range rec.Addresses {
		whose, err := d.whose(addr)
		if err != nil {
			return err
		}
		if whose != "" {
			return fmt.Errorf("it gave the pod the address %s of %s: have its ipam plugin leave that out", addr, whose)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, addr := range rec.Addresses {
		if h, ok := d.taken[addr]; ok && h.uid != rec.UID {
			return fmt.Errorf("it gave the pod the address %s of pod %s, which still runs: does another network of this host give out the same range, or were notes of its ipam plugin lost?", addr, h.pod)
		}
	}
	d.note(rec)
	return nil
}

// note has the pod's addresses known as its own. mu is held.
func (d *Driver) note(rec record) {
	for _, addr := range rec.Addresses {
		d.taken[addr] = holder{rec.UID, rec.Namespace + "/" + rec.Name}
	}
}

// giveBack is for a pod whose plugins have taken its addresses back.
func (d *Driver) giveBack(rec record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, addr := range rec.Addresses {
		if d.taken[addr].uid == rec.UID {
			delete(d.taken, addr)
		}
	}
}

// whose says who has an address that is no pod's; empty: nobody.
func (d *Driver) whose(addr netip.Addr) (string, error) {
	if d.o.Service != nil {
		if name := d.o.Service(addr); name != "" {
			return name, nil
		}
	}
	own := false
	err := inHost(d.o.NetNS, func() (err error) {
		own, err = hasAddress(addr)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("list the host's addresses: %w", err)
	}
	if own {
		return "this host", nil
	}
	return "", nil
}

// hasAddress looks in the calling thread's network namespace.
func hasAddress(addr netip.Addr) (bool, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return false, err
	}
	defer nl.Close()
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := nl.AddrList(nil, family)
	if err != nil {
		return false, err
	}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == addr {
			return true, nil
		}
	}
	return false, nil
}
