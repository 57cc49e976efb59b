package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"shoal/netdp/wireguard"
)

// Host is another host of the cell: where it is and which pods it has.
type Host struct {
	Name      string
	Addresses []netip.Addr
	PodCIDR   netip.Prefix
	PodCIDR6  netip.Prefix // not valid: its pods have IPv4 only
	// WireGuardKey is the key it told for encryption; zero: none yet.
	WireGuardKey wireguard.Key
}

// byFamily has a host twice whose pods have addresses of both families: the ways
// to these may differ. PodCIDR of each is the range that is meant.
func byFamily(hosts []Host, v6 bool) []Host {
	out := make([]Host, 0, 2*len(hosts))
	for _, h := range hosts {
		six := h.PodCIDR6
		h.PodCIDR6 = netip.Prefix{}
		out = append(out, h)
		if v6 && six.IsValid() {
			h.PodCIDR = six
			out = append(out, h)
		}
	}
	return out
}

// Path is how packets get to the pods of another host.
type Path string

// The ways to another host.
const (
	// PathDirect: both share a link, so a plain route does.
	PathDirect Path = "direct"
	// PathVXLAN: routers lie between that know nothing of pods.
	PathVXLAN Path = "vxlan"
	// PathWireGuard: the packets are encrypted.
	PathWireGuard Path = "wireguard"
	// PathUnreachable: there is no way; Problem says why.
	PathUnreachable Path = "unreachable"
)

// HostRoute is what SetHosts made of one range of one host.
type HostRoute struct {
	Host    string
	PodCIDR netip.Prefix
	Path    Path
	Via     netip.Addr // the host's address that is used
	Device  string     // the interface packets leave by
	MTU     int        // the largest packet, in bytes
	Problem string     // why there is no way, and what to do; else empty

	noKey  bool       // the problem is that nothing can be encrypted for it
	onLink netip.Addr // of an encrypted way: its address on a link that both share; not valid: none
	// owned: nobody else has pods in its range. Without a way, what is for them is refused.
	owned bool
}

// hostSet is the other hosts as they were set last.
type hostSet struct {
	setting sync.Mutex // held by SetHosts from beginning to end

	mu     sync.Mutex           // guards all below
	key    wireguard.PrivateKey // written with setting held too; zero: nothing is encrypted
	toTell wireguard.Key        // that of the device, once it is there
	by     string               // what encrypts, once it does
	routes []HostRoute
	// The smallest of all ways of IPv4, and of IPv6; 0: there is none.
	pathMTU, pathMTU6 int
}

// SetHosts makes the kernel reach the pods of these hosts and of no other,
// this one not among them. Only differences are written. It may be called again
// with the same hosts at any time, and should be: what happened to interfaces
// and routes meanwhile is noticed then. An earlier daemon's routes stay until
// the first call, so make that one when all hosts are known.
//
// A host that can not be reached is no error; Hosts tells.
func (d *Datapath) SetHosts(hosts []Host) error {
	if len(hosts) > maxHosts {
		return fmt.Errorf("set hosts: %d are more than the limit of %d in one cell", len(hosts), maxHosts)
	}
	d.hosts.setting.Lock()
	defer d.hosts.setting.Unlock()
	hosts = byFamily(hosts, d.opts.PodCIDR6.IsValid())
	routes := planHosts(hosts, d.hostRules(), d.newReach().find)
	err := d.applyHosts(hosts, routes)
	d.hosts.mu.Lock()
	was := d.hosts.routes
	d.hosts.routes = routes
	d.hosts.toTell, d.hosts.by = wireguard.Key{}, ""
	if d.wire != nil {
		d.hosts.toTell, d.hosts.by = d.wireKey, wiredBy(d.wire)
	}
	d.hosts.mu.Unlock()
	d.logHosts(was, routes)
	if err = errors.Join(err, d.settled(awaitHosts)); err != nil {
		return fmt.Errorf("set hosts: %w", err)
	}
	return nil
}

// Hosts tells how each host is reached, in the order of SetHosts; one whose pods
// have addresses of both families comes twice.
func (d *Datapath) Hosts() []HostRoute {
	d.hosts.mu.Lock()
	defer d.hosts.mu.Unlock()
	return slices.Clone(d.hosts.routes)
}

// applyHosts orders the steps so that a packet finds its way or none, never a
// wrong one: devices before routes, new routes before old ones go.
func (d *Datapath) applyHosts(hosts []Host, routes []HostRoute) error {
	var errs []error
	errs = append(errs, d.forwardIPv6(), d.prepareLinks(routes))
	device, err := d.ensureTunnel(routes)
	if err != nil {
		errs = append(errs, err)
		for i, r := range routes {
			if r.Path == PathVXLAN {
				routes[i] = unreachable(r, "the VXLAN device is missing: "+err.Error())
			}
		}
	}
	wire, err := d.ensureWire(routes)
	if err = errors.Join(err, d.setWirePeers(hosts, routes)); err != nil {
		errs = append(errs, err)
		for i, r := range routes {
			if r.Path == PathWireGuard {
				routes[i] = unreachable(r, "the WireGuard device is missing: "+err.Error())
				routes[i].noKey = true
			}
		}
	}
	d.setPathMTU(routes)
	links := map[string]int{tunnelDevice: device, wireDevice: wire}
	errs = append(errs,
		d.setRangeMaps(hosts, routes, links),
		d.removeFormerRules(),
		d.setHostRoutes(routes, links, d.encryptedRanges()),
		d.setMasquerade(hosts),
	)
	if !tunnelled(routes) {
		errs = append(errs, d.removeGather(), d.removeTunnel())
	} else if device != 0 {
		errs = append(errs, d.ensureGather())
	}
	return errors.Join(append(errs, d.refreshPodMTUs())...)
}

func tunnelled(routes []HostRoute) bool {
	return slices.ContainsFunc(routes, func(r HostRoute) bool { return r.Path == PathVXLAN })
}

func unreachable(r HostRoute, problem string) HostRoute {
	return HostRoute{Host: r.Host, PodCIDR: r.PodCIDR, Path: PathUnreachable, Problem: problem, owned: r.owned}
}

// prepareLinks lets the interfaces of direct ways forward, and puts the uplink
// programs on those that were not known as uplinks.
func (d *Datapath) prepareLinks(routes []HostRoute) error {
	var errs []error
	seen := map[string]bool{}
	for i, r := range routes {
		if r.Path != PathDirect || seen[r.Device] {
			continue
		}
		seen[r.Device] = true
		if err := d.addUplink(r.Device); err != nil {
			errs = append(errs, err)
			routes[i] = unreachable(r, err.Error())
		}
	}
	return errors.Join(errs...)
}

// logHosts says what is new: one line for each host with a problem that it did
// not have, and one for all others together.
func (d *Datapath) logHosts(was, routes []HostRoute) {
	type part struct {
		host string
		v6   bool
	}
	partOf := func(r HostRoute) part { return part{r.Host, r.PodCIDR.Addr().Is6()} }
	old := make(map[part]HostRoute, len(was))
	for _, r := range was {
		old[partOf(r)] = r
	}
	ways := map[Path]int{}
	changed := len(was) != len(routes)
	for _, r := range routes {
		ways[r.Path]++
		before := old[partOf(r)]
		changed = changed || before != r
		if r.Problem != "" && before.Problem != r.Problem {
			d.log.Warn("pods of a host cannot be reached", "host", r.Host, "pods", r.PodCIDR.String(), "problem", r.Problem)
		}
	}
	if changed {
		d.log.Info("hosts set", "direct", ways[PathDirect], "vxlan", ways[PathVXLAN], "wireguard", ways[PathWireGuard], "unreachable", ways[PathUnreachable])
	}
}
