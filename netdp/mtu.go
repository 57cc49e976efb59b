package netdp

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// A pod's interface takes what the uplinks can carry. What the pod sends is
// held to the smallest way to any other host by the MTU of its default route,
// of each family by its own ways:
// so a change reaches running pods and their open connections at once, and a
// pod still receives full-sized packets from hosts that have no tunnel.
type podMTU struct {
	link, route, route6 int
}

func (d *Datapath) podMTU() podMTU {
	mtu := 0
	for _, name := range d.uplinkNames() {
		link, err := d.nl.LinkByName(name)
		if err == nil && (mtu == 0 || link.Attrs().MTU < mtu) {
			mtu = link.Attrs().MTU
		}
	}
	if mtu == 0 {
		mtu = fallbackMTU
	}
	d.hosts.mu.Lock()
	defer d.hosts.mu.Unlock()
	out := podMTU{link: mtu, route: mtu, route6: mtu}
	if d.opts.PodCIDR6.IsValid() {
		out.link = max(mtu, minIPv6MTU)
	}
	if d.hosts.pathMTU != 0 {
		out.route = min(mtu, d.hosts.pathMTU)
	}
	if d.hosts.pathMTU6 != 0 {
		out.route6 = min(mtu, d.hosts.pathMTU6)
	}
	return out
}

func (d *Datapath) setPathMTU(routes []HostRoute) {
	smallest := map[bool]int{} // by whether it is of IPv6
	for _, r := range routes {
		v6 := r.PodCIDR.Addr().Is6()
		if r.MTU > 0 && (smallest[v6] == 0 || r.MTU < smallest[v6]) {
			smallest[v6] = r.MTU
		}
	}
	d.hosts.mu.Lock()
	defer d.hosts.mu.Unlock()
	d.hosts.pathMTU, d.hosts.pathMTU6 = smallest[false], smallest[true]
}

// refreshPodMTUs brings pods that were made with another MTU up to date. Only
// SetHosts calls it. A pod that is being made meanwhile is waited for.
func (d *Datapath) refreshPodMTUs() error {
	want := d.podMTU()
	if want == d.podsHaveMTU {
		return nil
	}
	d.pods.mu.Lock()
	entries := make([]*podEntry, 0, len(d.pods.byUID))
	for _, e := range d.pods.byUID {
		entries = append(entries, e)
	}
	d.pods.mu.Unlock()
	var errs []error
	for _, e := range entries {
		e.mu.Lock()
		if e.ready && !e.dead {
			if err := d.setPodMTU(e.record, want); err != nil {
				errs = append(errs, fmt.Errorf("set MTU of pod %s/%s: %w", e.record.Namespace, e.record.Name, err))
			}
		}
		e.mu.Unlock()
	}
	if len(errs) == 0 {
		d.podsHaveMTU = want
	}
	return errors.Join(errs...)
}

func (d *Datapath) setPodMTU(rec podRecord, mtu podMTU) error {
	link, err := d.nl.LinkByName(hostLinkName(rec.UID))
	if err != nil {
		return err
	}
	if err := d.nl.LinkSetMTU(link, mtu.link); err != nil {
		return err
	}
	ns, err := openNamespace(d.pods.records.netns(rec.UID))
	if err != nil {
		return err
	}
	defer ns.close()
	return ns.do(func() error {
		eth, err := netlink.LinkByName(podLinkName)
		if err != nil {
			return err
		}
		err = netlink.LinkSetMTU(eth, mtu.link)
		for _, addr := range rec.addresses() {
			err = firstError(err, netlink.RouteReplace(podDefaultRoute(eth.Attrs().Index, addr, mtu)))
		}
		return err
	})
}
