package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"shoal/bpf"
)

// RoutedPod is a pod of this host that another driver gave its network. Packets
// reach it, and leave it, by the host's routes; no program sits at its link, so no
// policy is enforced there and no address of it is changed. Services work for it:
// its sockets are translated like all others, and what calls it from outside goes
// by the routes.
type RoutedPod struct {
	UID       string
	NetNS     string // path of its namespace
	Addresses []netip.Addr
}

// ipv4 is its address of that family, not valid without one.
func (p RoutedPod) ipv4() netip.Addr {
	for _, a := range p.Addresses {
		if a.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// routedPods are those that are set.
type routedPods struct {
	mu    sync.Mutex
	byUID map[string]RoutedPod // guarded by mu

	addrs atomic.Pointer[map[netip.Addr]bool] // what byUID has; a DNS server asks for each packet
}

func (r *routedPods) has(addr netip.Addr) bool {
	known := r.addrs.Load()
	return known != nil && (*known)[addr]
}

// namespaces adds the paths of all by uid.
func (r *routedPods) namespaces(out map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for uid, p := range r.byUID {
		out[uid] = p.NetNS
	}
}

// change replaces or, without addresses, removes one pod. mu is held.
func (r *routedPods) change(p RoutedPod) {
	if r.byUID == nil {
		r.byUID = map[string]RoutedPod{}
	}
	if len(p.Addresses) > 0 {
		r.byUID[p.UID] = p
	} else {
		delete(r.byUID, p.UID)
	}
	known := map[netip.Addr]bool{}
	for _, p := range r.byUID {
		for _, a := range p.Addresses {
			known[a] = true
		}
	}
	r.addrs.Store(&known)
}

// openRouted takes over the pods that Options name and forgets the rest.
func (d *Datapath) openRouted() error {
	keep := map[[4]uint32]uint32{}
	for _, p := range d.opts.RoutedPods {
		for _, a := range p.Addresses {
			keep[wireAddr(a)] = 1
		}
	}
	if err := syncMap("routed pods", d.maps[bpf.DatapathMapRoutedPods], keep); err != nil {
		return err
	}
	for _, p := range d.opts.RoutedPods {
		if err := d.SetRouted(p.UID, p.NetNS, p.Addresses); err != nil {
			return err
		}
	}
	return nil
}

// SetRouted makes a RoutedPod known. Equal settings may be repeated.
func (d *Datapath) SetRouted(podUID, netns string, addrs []netip.Addr) error {
	p := RoutedPod{UID: podUID, NetNS: netns, Addresses: addrs}
	ns, err := openNamespace(p.NetNS)
	if err != nil {
		return fmt.Errorf("set routed pod %s: %w", p.UID, err)
	}
	defer ns.close()
	d.routed.mu.Lock()
	defer d.routed.mu.Unlock()
	if err := d.setCaller(ns, p.Addresses); err != nil {
		return fmt.Errorf("set routed pod %s: %w", p.UID, err)
	}
	for _, a := range p.Addresses {
		if err := full("write routed pod "+p.UID, d.maps[bpf.DatapathMapRoutedPods].Put(wireAddr(a), uint32(1))); err != nil {
			return err
		}
	}
	d.routed.change(p)
	return nil
}

// DropRouted forgets one, before its network goes. One that is not known is no
// error.
func (d *Datapath) DropRouted(uid string) error {
	d.routed.mu.Lock()
	defer d.routed.mu.Unlock()
	p, ok := d.routed.byUID[uid]
	if !ok {
		return nil
	}
	var errs []error
	for _, a := range p.Addresses {
		errs = append(errs, ignoreMissing("delete routed pod", d.maps[bpf.DatapathMapRoutedPods].Delete(wireAddr(a))))
	}
	if err := errors.Join(append(errs, d.dropCaller(p.NetNS))...); err != nil {
		return fmt.Errorf("drop routed pod %s: %w", uid, err)
	}
	d.routed.change(RoutedPod{UID: uid})
	return nil
}
