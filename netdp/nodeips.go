package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// ownAddresses of this host; they are replaced as a whole.
type ownAddresses struct {
	node    []netip.Addr // those of its Node
	standIn netip.Addr   // of IPv6, on loopback; not valid: the host needs none
}

// NodeIPs are the addresses at which this host's node ports are called.
func (d *Datapath) NodeIPs() []netip.Addr { return slices.Clone(d.own.Load().node) }

// nodeIP is this host's first address of a family.
func (d *Datapath) nodeIP(v6 bool) (netip.Addr, bool) { return firstOf(d.own.Load().node, v6) }

func firstOf(ips []netip.Addr, v6 bool) (netip.Addr, bool) {
	for _, ip := range ips {
		if ip.Is6() == v6 {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// ownIPs are the addresses by which pods and programs of this host know it.
func (d *Datapath) ownIPs() []netip.Addr {
	own := d.own.Load()
	out := slices.Clone(own.node)
	if own.standIn.IsValid() {
		out = append(out, own.standIn)
	}
	return out
}

// SetNodeIPs is for addresses of IPv6 that come, as from a router, and go while the
// daemon runs. The one of IPv4 stays, as tunnels end at it. SetHosts has to be called
// after it: other hosts' pods are called from the new address from then on. It may be
// called again after an error.
func (d *Datapath) SetNodeIPs(ips []netip.Addr) error {
	ips, err := d.opts.checkNodeIPs(ips)
	if err != nil {
		return fmt.Errorf("set addresses of this host: %w", err)
	}
	was, _ := d.nodeIP(false)
	if now, _ := firstOf(ips, false); now != was {
		return fmt.Errorf("set addresses of this host: the first of IPv4 was %s and cannot be %s while the daemon runs; start it again", was, now)
	}
	d.hosts.setting.Lock()
	defer d.hosts.setting.Unlock()
	d.own.Store(&ownAddresses{node: ips, standIn: d.own.Load().standIn})
	d.table.setNodeIPs(ips)
	err = errors.Join(d.takeStandIn(), d.setNodeAddrs(), d.setCaller(d.host, d.ownIPs()), d.uplinksOf(ips), d.renewPodRoutes())
	d.renewNodePeers()
	return named("set addresses of this host", err)
}

// renewPodRoutes has this host call its pods from the address it has now.
func (d *Datapath) renewPodRoutes() error {
	var errs []error
	for _, entry := range d.podEntries() {
		entry.mu.Lock()
		if link, err := d.nl.LinkByName(hostLinkName(entry.record.UID)); err == nil && entry.ready && !entry.dead {
			errs = append(errs, d.routeToPod(entry.record, link.Attrs().Index))
		}
		entry.mu.Unlock()
	}
	return errors.Join(errs...)
}

// uplinksOf also serves the interfaces that have these addresses, unless the
// administrator chose the uplinks.
func (d *Datapath) uplinksOf(ips []netip.Addr) error {
	if len(d.opts.Uplinks) > 0 {
		return nil
	}
	var errs []error
	for _, ip := range ips {
		name, err := d.linkHolding(ip)
		if err == nil && name != "" {
			err = d.addUplink(name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (t *table) setNodeIPs(ips []netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nodeIPs = ips
}

func (o *Options) checkNodeIPs(ips []netip.Addr) ([]netip.Addr, error) {
	out := make([]netip.Addr, 0, len(ips))
	for _, ip := range ips {
		ip = ip.Unmap()
		if p := o.podRange(ip.Is6()); p.IsValid() && p.Contains(ip) {
			return nil, fmt.Errorf("node address %s is inside PodCIDR %s", ip, p)
		}
		out = append(out, ip)
	}
	return out, nil
}
