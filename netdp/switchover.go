package netdp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"shoal/bpf"
	"shoal/netdp/policy/tables"
)

// attach puts the programs in place, unless maps of theirs must be filled first.
func (d *Datapath) attach() error {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	if d.await != 0 {
		d.log.Warn("maps of a new layout begin empty: the earlier daemon's programs serve, and new pods wait, until the store has been read")
		return nil
	}
	return d.switchOver()
}

// settled says that something is known now. When it was all that was awaited, this
// daemon's programs take the place of an earlier one's.
func (d *Datapath) settled(what awaited) error {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	return d.settle(what)
}

// settle is settled for who has attaching. A switch-over that failed is tried again with
// the next call, whatever that is for.
func (d *Datapath) settle(what awaited) error {
	if what |= awaitRetry; d.await&what == 0 {
		return nil
	}
	if left := d.await &^ what; left != 0 {
		d.await = left
		return nil
	}
	d.await = awaitRetry
	if err := d.switchOver(); err != nil {
		return err
	}
	d.await = 0
	return nil
}

// switchOver replaces the programs of an earlier daemon by this one's. What the old
// ones write into their maps is carried over before, so that each packet finds its
// connection whoever handles it, and until they write no more. It runs with
// attaching held, and may be called again when it failed.
func (d *Datapath) switchOver() error {
	began := time.Now()
	if err := d.set.again(); err != nil {
		return err
	}
	if d.set.begun[bpf.DatapathMapPolicyConns] {
		d.noteAllOpen()
	}
	if err := d.set.pin(); err != nil {
		return err
	}
	if err := d.replacePrograms(); err != nil {
		return err
	}
	if len(d.set.carried) > 0 {
		d.log.Info("carried kernel maps over to their new layouts",
			"maps", slices.Sorted(maps.Keys(d.set.carried)), "switched_within", time.Since(began))
	}
	d.set.endCarries()
	if err := d.pins.removeOldMaps(d.specs); err != nil {
		return err
	}
	close(d.switched)
	return nil
}

// replacePrograms puts this daemon's programs in. While there are connections to be
// carried over, those of the uplinks have the older ones behind them, for connections
// that begin before all are.
func (d *Datapath) replacePrograms() (err error) {
	d.set.shared()
	if len(d.set.carries) > 0 {
		if err := d.takeover.begin(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.takeover.end(), d.set.again()) }()
	}
	// Programs end with this one: it goes in before any of them is attached. Those of an
	// earlier daemon may call it as well.
	if err := d.maps[bpf.DatapathMapPrograms].Put(uint32(programToPod), d.progs[bpf.DatapathProgToPod]); err != nil {
		return fmt.Errorf("put program for packets to pods: %w", err)
	}
	err = errors.Join(d.attachSock(), d.adoptTunnel(), d.adoptGather(), d.adoptWire(), d.refreshPodLinks(), d.set.again())
	return errors.Join(err, d.attachUplinks(), d.takeover.begun(), d.set.again(), d.pins.removeHalfMade())
}

// dropOldMaps takes away pins of maps that no program uses any more.
func (d *Datapath) dropOldMaps() error {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	if d.await != 0 {
		return nil
	}
	return d.pins.removeOldMaps(d.specs)
}

// awaitSwitch waits until this daemon's programs are in place: a pod made before
// would be known to them alone.
func (d *Datapath) awaitSwitch(ctx context.Context) error {
	select {
	case <-d.switched:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait until services, hosts and policies are known after a change of the maps' layout: %w", ctx.Err())
	}
}

func (d *Datapath) isSwitched() bool {
	select {
	case <-d.switched:
		return true
	default:
		return false
	}
}

// refreshPodLinks puts this daemon's programs in the place of an earlier one's. It
// takes no pod's lock: who has that may wait for who switches over. No pod is made
// meanwhile, and one whose link is gone needs none.
func (d *Datapath) refreshPodLinks() error {
	uids, err := d.Attached(context.Background())
	if err != nil {
		return err
	}
	var errs []error
	for _, uid := range uids {
		l, err := d.nl.LinkByName(hostLinkName(uid))
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue
		}
		if err == nil {
			err = d.filterPodLink(l.Attrs().Index)
		}
		if _, gone := d.nl.LinkByName(hostLinkName(uid)); errors.As(gone, new(netlink.LinkNotFoundError)) {
			continue
		}
		errs = append(errs, named("refresh programs of pod "+uid, err))
	}
	return errors.Join(errs...)
}

// noteAllOpen is noteOpen of all pods that are isolated, when nobody remembers their
// connections.
func (d *Datapath) noteAllOpen() {
	var addrs []netip.Addr
	d.policyMu.Lock()
	for addr, s := range d.policy.subjects.have {
		if s != tables.Held {
			addrs = append(addrs, addr)
		}
	}
	d.policyMu.Unlock()
	open := d.openOf(addrs)
	d.policyMu.Lock()
	defer d.policyMu.Unlock()
	d.noteOpen(open)
}
