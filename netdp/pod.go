package netdp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"shoal/netdp/netns"
	"shoal/netdp/podfile"
	"shoal/netdp/policy/tables"
)

// podSet is the pods that have a network on this host.
type podSet struct {
	records records
	boot    string

	mu        sync.Mutex // guards all below
	byUID     map[string]*podEntry
	addresses *addresses

	range6 netip.Prefix // Options.PodCIDR6
}

// podEntry's mutex is held while its pod is attached or detached, so the same
// pod is never worked on twice at once while others go on beside it.
type podEntry struct {
	mu     sync.Mutex
	record podRecord // valid while listed in byUID; written with podSet.mu too, as that is enough to read it
	ready  bool      // everything was made or found by this daemon
	dead   bool      // no longer in byUID
}

func (d *Datapath) openPods() error {
	r, err := openRecords(d.opts.StateDir)
	if err != nil {
		return err
	}
	boot, err := podfile.BootID()
	if err != nil {
		return err
	}
	d.pods = &podSet{
		records: r, boot: boot, byUID: map[string]*podEntry{},
		addresses: newAddresses(d.opts.PodCIDR), range6: d.opts.PodCIDR6,
	}
	loaded, err := r.Load()
	if err != nil {
		return err
	}
	for _, rec := range loaded {
		if err := d.adoptPod(rec); err != nil {
			return err
		}
	}
	if last, ok := r.lastAddress(); ok {
		d.pods.addresses.startAfter(last)
	}
	if err := firstError(d.dropStrayPods(), d.dropStrayCallers(), d.setCaller(d.host, d.ownIPs())); err != nil {
		return err
	}
	return d.addPodRoutes()
}

// adoptPod takes over a pod of an earlier daemon. One from before a reboot has
// nothing left but its record.
func (d *Datapath) adoptPod(rec podRecord) error {
	if rec.Boot != d.pods.boot {
		if err := netns.Unpin(d.pods.records.netns(rec.UID)); err != nil {
			return err
		}
		return d.pods.records.Remove(rec.UID)
	}
	d.pods.addresses.take(rec.Address)
	entry := &podEntry{record: rec}
	d.pods.byUID[rec.UID] = entry
	complete, err := d.podComplete(rec)
	if err != nil || !complete || !rec.Made {
		return err // the next Attach makes it anew, Detach clears it away
	}
	entry.ready = true
	return nil
}

// Attach gives a pod its network namespace and address, or returns those it
// has. The namespace is pinned at the returned path until Detach.
func (d *Datapath) Attach(ctx context.Context, podUID, namespace, name string) (string, []netip.Addr, error) {
	return d.AttachTo(ctx, podUID, namespace, name, "", nil)
}

// AttachTo is Attach for a pod whose network namespace was made by the caller
// and is at the path given, as one that a user namespace owns. It is the same
// path each time, and has no links but its own loopback. By its identity policies know
// the pod while the API says nothing of it; nil: as before.
func (d *Datapath) AttachTo(ctx context.Context, podUID, namespace, name, given string, id *tables.Identity) (string, []netip.Addr, error) {
	if err := errors.Join(ctx.Err(), podfile.CheckUID(podUID)); err != nil {
		return "", nil, fmt.Errorf("attach pod %s/%s: %w", namespace, name, err)
	}
	for {
		addrs, done, err := d.tryAttach(podUID, namespace, name, given, id)
		if err == nil && !done {
			err = d.awaitSwitch(ctx)
		}
		if err != nil {
			return "", nil, fmt.Errorf("attach pod %s/%s: %w", namespace, name, err)
		}
		if done {
			return d.pods.records.netns(podUID), addrs, nil
		}
	}
}

// tryAttach is not done with a pod that must be made, before awaitSwitch.
func (d *Datapath) tryAttach(podUID, namespace, name, given string, id *tables.Identity) (addrs []netip.Addr, done bool, err error) {
	switched := d.isSwitched()
	entry, err := d.pods.claim(podUID, namespace, name)
	if err != nil {
		return nil, false, err
	}
	defer entry.mu.Unlock()
	changed, err := d.pods.identify(entry, id)
	if err != nil {
		return nil, false, err
	}
	if changed && entry.ready {
		d.identifyPod(entry.record)
	}
	complete, err := d.podComplete(entry.record)
	if err != nil {
		return nil, false, err
	}
	if !complete || !entry.ready {
		if !switched {
			return nil, false, nil
		}
		err = d.buildPod(entry, given)
	}
	return entry.record.addresses(), err == nil, err
}

// claim returns the pod's entry, locked, with an address and a record on disk.
func (p *podSet) claim(uid, namespace, name string) (*podEntry, error) {
	for {
		entry, err := p.entry(uid, namespace, name)
		if err != nil {
			return nil, err
		}
		entry.mu.Lock()
		if !entry.dead {
			return entry, nil
		}
		entry.mu.Unlock() // detached while we waited
	}
}

func (p *podSet) entry(uid, namespace, name string) (*podEntry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if entry := p.byUID[uid]; entry != nil {
		return entry, nil
	}
	addr, err := p.addresses.alloc(time.Now())
	if err != nil {
		return nil, err
	}
	rec := podRecord{
		UID: uid, Namespace: namespace, Name: name, Boot: p.boot,
		Address: addr, Address6: p.addresses.ipv6(addr, p.range6),
	}
	if err := errors.Join(p.records.saveLast(addr), p.records.Save(rec)); err != nil {
		p.addresses.release(addr, time.Time{})
		return nil, err
	}
	entry := &podEntry{record: rec}
	p.byUID[uid] = entry
	return entry, nil
}

// identify writes down what an entry, which is locked, is known by.
func (p *podSet) identify(entry *podEntry, id *tables.Identity) (changed bool, err error) {
	if id == nil || entry.record.Identity.Equal(id) {
		return false, nil
	}
	rec := entry.record
	rec.Identity = id
	if err := p.records.Save(rec); err != nil {
		return false, err
	}
	p.mu.Lock()
	entry.record = rec
	p.mu.Unlock()
	return true, nil
}

// buildPod clears away what a killed daemon or a failed try left, and makes
// everything.
func (d *Datapath) buildPod(entry *podEntry, given string) error {
	entry.ready = false
	if err := d.clearPod(entry.record); err != nil {
		return err
	}
	if err := d.holdPod(entry.record); err != nil {
		return err
	}
	path := d.pods.records.netns(entry.record.UID)
	if err := d.makePod(entry.record, given, path); err != nil {
		return errors.Join(err, d.clearPod(entry.record))
	}
	d.pods.mu.Lock()
	entry.record.Made = true
	d.pods.mu.Unlock()
	if err := d.pods.records.Save(entry.record); err != nil {
		return err
	}
	entry.ready = true
	return nil
}

// Detach takes a pod's network away. An unknown pod is no error.
func (d *Datapath) Detach(ctx context.Context, podUID string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("detach pod %s: %w", podUID, err)
	}
	d.pods.mu.Lock()
	entry := d.pods.byUID[podUID]
	d.pods.mu.Unlock()
	if entry == nil {
		return nil
	}
	entry.mu.Lock()
	defer entry.mu.Unlock()
	if entry.dead {
		return nil
	}
	entry.ready = false
	if err := d.clearPod(entry.record); err != nil {
		return fmt.Errorf("detach pod %s: %w", podUID, err)
	}
	d.releasePod(podUID)
	if err := d.pods.records.Remove(podUID); err != nil {
		return fmt.Errorf("detach pod %s: %w", podUID, err)
	}
	d.pods.mu.Lock()
	defer d.pods.mu.Unlock()
	entry.dead = true
	delete(d.pods.byUID, podUID)
	d.pods.addresses.release(entry.record.Address, time.Now())
	return nil
}

// Attached lists the uids of all pods that have a network here, half-made ones
// included.
func (d *Datapath) Attached(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list attached pods: %w", err)
	}
	d.pods.mu.Lock()
	defer d.pods.mu.Unlock()
	uids := make([]string, 0, len(d.pods.byUID))
	for uid := range d.pods.byUID {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return uids, nil
}
