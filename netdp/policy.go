package netdp

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"shoal/netdp/policy/tables"
)

// SetPolicy puts a change of network policy into effect. Of a change that could
// not be written whole the rest is tried again with the next one; until then
// less is allowed than should be, never more for long-standing pods.
func (d *Datapath) SetPolicy(c tables.Change) error {
	open := d.findOpen(c.Subjects)
	d.policyMu.Lock()
	if c.Complete {
		if err := d.listNodePeers(); err != nil {
			d.log.Warn("list the host's addresses; pods' calls to new ones may be refused until they are", "error", err)
		}
	}
	d.noteOpen(open)
	err := d.setPolicy(c)
	d.policyMu.Unlock()
	if c.Complete {
		err = errors.Join(err, d.settled(awaitPolicy))
	}
	return err
}

// setPolicy is SetPolicy for who has the lock.
func (d *Datapath) setPolicy(c tables.Change) error {
	p := d.policy
	if c.Rules != nil {
		ports := make(map[tables.PortKey]struct{}, len(c.Rules.Ports))
		for k := range c.Rules.Ports {
			ports[k] = struct{}{}
		}
		p.ports.setAll(ports)
		p.rules.setAll(c.Rules.Peers)
		p.blocks.setAll(c.Rules.Blocks)
	}
	nodes := p.nodes
	if c.Complete {
		for addr := range p.peers.want {
			if c.Peers[addr] == 0 && !nodes[addr] {
				p.peers.drop(addr)
			}
		}
		for addr := range p.subjects.want {
			if c.Subjects[addr] == (tables.Subject{}) {
				p.subjects.drop(addr)
			}
		}
	}
	for addr, id := range c.Peers {
		switch {
		case nodes[addr]: // a pod of the host's network
		case id == 0:
			p.peers.drop(addr)
		default:
			p.peers.set(addr, id)
		}
	}
	for addr, s := range c.Subjects {
		if s == (tables.Subject{}) {
			p.subjects.drop(addr)
		} else {
			p.subjects.set(addr, s)
		}
	}
	return d.writePolicy()
}

// writePolicy writes what is missing, and notes what there is no room for.
func (d *Datapath) writePolicy() error {
	err := d.policy.write()
	d.noRoom.notePolicy(err)
	return err
}

// listNodePeers looks up the addresses of this host: its pods may always call
// it, at whatever address. Who has policyMu calls it, and writes afterwards.
func (d *Datapath) listNodePeers() error {
	now := map[netip.Addr]bool{d.opts.PodCIDR.Addr(): true} // ServerAddress
	for _, addr := range d.ownIPs() {
		now[addr] = true
	}
	list, err := d.nl.AddrList(nil, netlink.FAMILY_ALL)
	for _, a := range list {
		if addr, ok := nodePeer(a.IP); ok {
			now[addr] = true
		}
	}
	p := d.policy
	for addr := range now {
		p.peers.set(addr, tables.NodePeer)
	}
	if err != nil { // none is taken away
		maps.Copy(now, p.nodes)
		p.nodes = now
		return fmt.Errorf("list addresses: %w", err)
	}
	for addr := range p.nodes {
		if !now[addr] {
			p.peers.drop(addr)
		}
	}
	p.nodes = now
	return nil
}

// nodePeer: what a pod calls at its own loopback, or on its own link, never gets
// to the host.
func nodePeer(ip net.IP) (netip.Addr, bool) {
	addr, ok := addrOf(ip)
	return addr, ok && !addr.IsLoopback() && !(addr.Is6() && addr.IsLinkLocalUnicast())
}

// renewNodePeers follows the host's addresses.
func (d *Datapath) renewNodePeers() {
	d.policyMu.Lock()
	defer d.policyMu.Unlock()
	if err := errors.Join(d.listNodePeers(), d.writePolicy()); err != nil {
		d.log.Warn("follow the host's addresses for network policy; it is tried again with the next change", "error", err)
	}
}

// EnforcePolicy tells w of each pod from now on, and returns those that are
// there already.
func (d *Datapath) EnforcePolicy(w tables.PodWatcher) []tables.LocalPod {
	d.policyMu.Lock()
	d.podWatcher = w
	d.policyMu.Unlock()
	d.pods.mu.Lock()
	defer d.pods.mu.Unlock()
	var out []tables.LocalPod
	for _, entry := range d.pods.byUID {
		out = append(out, localPod(entry.record))
	}
	return out
}

func localPod(rec podRecord) tables.LocalPod {
	return tables.LocalPod{UID: rec.UID, Namespace: rec.Namespace, Name: rec.Name, Addrs: rec.addresses(), Identity: rec.Identity}
}

// holdPod keeps a pod that is about to get its link from everything but the
// node until its policies are written. Nothing is held while nobody enforces.
// What else there is no room for is no reason to fail: the watcher's next change
// tries it again and tells.
func (d *Datapath) holdPod(rec podRecord) error {
	d.policyMu.Lock()
	w := d.podWatcher
	d.policyMu.Unlock()
	if w == nil {
		return nil
	}
	pod := localPod(rec)
	held := tables.Change{Subjects: map[netip.Addr]tables.Subject{}}
	for _, addr := range pod.Addrs {
		held.Subjects[addr] = tables.Held
	}
	d.policyMu.Lock()
	err := d.setPolicy(held)
	if d.policy.holds(pod.Addrs) {
		err = nil
	}
	d.policyMu.Unlock()
	if err != nil {
		return fmt.Errorf("hold pod until its network policies are known: %w", err)
	}
	w.PodAttaching(pod)
	return nil
}

// identifyPod tells of a pod that was there before more was known of it.
func (d *Datapath) identifyPod(rec podRecord) {
	d.policyMu.Lock()
	w := d.podWatcher
	d.policyMu.Unlock()
	if w != nil {
		w.PodIdentified(localPod(rec))
	}
}

// NotePod keeps what policies know a pod of this host by, for the next daemon. One that
// is gone is no error.
func (d *Datapath) NotePod(uid string, id *tables.Identity) error {
	d.pods.mu.Lock()
	entry := d.pods.byUID[uid]
	d.pods.mu.Unlock()
	if entry == nil {
		return nil
	}
	entry.mu.Lock()
	defer entry.mu.Unlock()
	if entry.dead {
		return nil
	}
	_, err := d.pods.identify(entry, id)
	return err
}

// releasePod forgets a pod whose link is gone.
func (d *Datapath) releasePod(uid string) {
	d.policyMu.Lock()
	w := d.podWatcher
	d.policyMu.Unlock()
	if w != nil {
		w.PodDetached(uid)
	}
}
