package netdp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

const (
	// repairInterval is how long something that somebody took away stays
	// unnoticed. A round asks the kernel some dozens of questions.
	repairInterval = 5 * time.Second
	// podRounds: filters of pods are looked at when the kernel said that some
	// filter has changed, and every so many rounds in case it could not say so:
	// that is four questions for each pod.
	podRounds = 60
)

// Repair is one thing of the datapath that was found missing and was put back,
// or could not be.
type Repair struct {
	// What was missing, in words for people.
	What string
	// Err says why it is still missing.
	Err error
}

func (r Repair) String() string {
	if r.Err != nil {
		return fmt.Sprintf("%s, and could not be put back: %v", r.What, r.Err)
	}
	return r.What + "; it was put back"
}

// KeepAttached looks every few seconds whether all programs and pins are where
// they belong, puts back what is missing and tells of it, until ctx ends. The
// same failure is told once.
func (d *Datapath) KeepAttached(ctx context.Context, tell func(Repair)) error {
	return d.keepAttached(ctx, repairInterval, tell)
}

func (d *Datapath) keepAttached(ctx context.Context, every time.Duration, tell func(Repair)) error {
	changed, ended, err := d.watchFilters(ctx)
	if err != nil {
		return err
	}
	defer func() { <-ended }()
	tick := time.NewTicker(every)
	defer tick.Stop()
	failed := map[string]string{}
	for round := 0; ; round++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := map[string]string{}
		for _, r := range d.repair(changed.Swap(false) || round%podRounds == 0) {
			if r.Err != nil {
				now[r.What] = r.Err.Error()
				if failed[r.What] == now[r.What] {
					continue
				}
			}
			tell(r)
		}
		failed = now
	}
}

// watchFilters sets what it returns first when a filter or qdisc changes anywhere
// on the host, until ctx ends; the channel closes then.
func (d *Datapath) watchFilters(ctx context.Context) (*atomic.Bool, <-chan struct{}, error) {
	var changed atomic.Bool
	ended := make(chan struct{})
	var socket *nl.NetlinkSocket
	err := d.host.do(func() (err error) { // the socket stays in the namespace it is made in
		socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_TC)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("watch filters: %w", err)
	}
	stop := context.AfterFunc(ctx, socket.Close)
	go func() {
		defer close(ended)
		defer stop()
		for {
			_, _, err := socket.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // some were missed: all is looked at
				return // it was closed; podRounds is left
			}
			changed.Store(true)
		}
	}()
	return &changed, ended, nil
}

// Repair does one round of KeepAttached, pods included.
func (d *Datapath) Repair() []Repair { return d.repair(true) }

func (d *Datapath) repair(pods bool) []Repair {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	r := &repairs{d: d}
	if d.await == awaitRetry {
		r.add(d.settle(awaitRetry), "programs of an earlier daemon were still in place")
	}
	if d.await != 0 { // an earlier daemon's programs serve until ours have all they need
		return r.found
	}
	if r.bpffs() {
		r.maps()
		r.sock()
		r.uplinks()
	}
	r.tunnels()
	if pods {
		r.pods()
	}
	for _, found := range r.found {
		d.repaired.count(found)
	}
	return r.found
}

// repairs is one round. It runs with the datapath's attaching held.
type repairs struct {
	d     *Datapath
	found []Repair
}

func (r *repairs) add(err error, what string, args ...any) {
	r.found = append(r.found, Repair{What: fmt.Sprintf(what, args...), Err: err})
}

// bpffs tells whether there is one to pin to.
func (r *repairs) bpffs() bool {
	dir := r.d.opts.BPFFSDir
	on, err := onBPFFS(dir)
	if err == nil && on || errors.Is(err, os.ErrPermission) {
		return true
	}
	_, err = openPins(dir)
	r.add(err, "the bpffs at %s was unmounted", dir)
	return err == nil
}

func (r *repairs) maps() {
	for name, pinName := range layoutNames(r.d.specs) {
		path := r.d.pins.mapPath(pinName)
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		r.add(pinAgain(r.d.maps[name], path), "the pin of map %s was removed", name)
	}
}

// pinAgain pins by a copy, which has no memory of an old pin.
func pinAgain(m *ebpf.Map, path string) error {
	again, err := m.Clone()
	if err != nil {
		return err
	}
	defer again.Close()
	return again.Pin(path)
}

func (r *repairs) sock() {
	for _, p := range sockPrograms {
		path := r.d.pins.link(p.name)
		r.link(path, r.d.progs[p.name], "program "+p.name, func() error { return r.d.attachSockProgram(p.name, p.attach) })
	}
}

// link looks at one link, and attaches it anew where that is needed.
func (r *repairs) link(path string, prog *ebpf.Program, what string, attach func() error) {
	state, err := r.d.links.stateOf(path, prog)
	switch {
	case err != nil:
		r.add(err, "%s could not be looked at", what)
	case state == linkUnpinned:
		r.add(repin(r.d.links[path], path), "the pin of %s was removed", what)
	case state == linkDetached:
		r.add(attach(), "%s was detached", what)
	}
}

func (r *repairs) uplinks() {
	for _, name := range r.d.uplinks {
		dev, err := r.d.nl.LinkByName(name)
		if err != nil {
			continue // the interface is gone, and its packets with it
		}
		for _, side := range uplinkSides {
			what := fmt.Sprintf("program %s of interface %s", side.program, name)
			prog := r.d.progs[side.program]
			attach := func() error {
				return r.d.host.do(func() error { return r.d.attachUplink(name, side.program, prog, side.attach) })
			}
			if r.d.filtered[name] {
				r.filter(dev, side.parent, side.program, prog, what, attach)
				continue
			}
			r.link(r.d.pins.link(side.program+"-"+name), prog, what, attach)
		}
	}
}

// filter looks at one clsact filter.
func (r *repairs) filter(dev netlink.Link, parent uint32, name string, prog *ebpf.Program, what string, attach func() error) {
	ok, err := r.d.hasFilter(dev, parent, name, prog)
	switch {
	case err != nil:
		r.add(err, "%s could not be looked at", what)
	case !ok:
		r.add(attach(), "%s was detached", what)
	}
}

// hasFilter tells whether our filter is on the device with the program.
func (d *Datapath) hasFilter(dev netlink.Link, parent uint32, name string, prog *ebpf.Program) (bool, error) {
	want, err := programID(prog)
	if err != nil {
		return false, err
	}
	filters, err := d.nl.FilterList(dev, parent)
	if err != nil {
		return false, fmt.Errorf("list filters of %s: %w", dev.Attrs().Name, err)
	}
	for _, f := range filters {
		// The kernel cuts long names.
		if b, ok := f.(*netlink.BpfFilter); ok && b.Id == int(want) && strings.HasPrefix(filterPrefix+name, strings.TrimSuffix(b.Name, "...")) {
			return true, nil
		}
	}
	return false, nil
}

func (r *repairs) tunnels() {
	for _, side := range []struct {
		device  string
		parent  uint32
		program string
	}{
		{tunnelDevice, netlink.HANDLE_MIN_INGRESS, bpf.DatapathProgOverlayIngress},
		{tunnelDevice, netlink.HANDLE_MIN_EGRESS, bpf.DatapathProgOverlayEgress},
		{wireDevice, netlink.HANDLE_MIN_INGRESS, bpf.DatapathProgWireIngress},
		{wireDevice, netlink.HANDLE_MIN_EGRESS, bpf.DatapathProgWireEgress},
	} {
		dev, err := r.d.nl.LinkByName(side.device)
		if err != nil {
			continue // there is none, or SetHosts makes it again
		}
		prog := r.d.progs[side.program]
		r.filter(dev, side.parent, side.program, prog, "program "+side.program+" of "+side.device, func() error {
			return r.d.filterDevice(dev.Attrs().Index, side.parent, side.program, prog)
		})
	}
}

// pods leaves out those that are being made or taken away.
func (r *repairs) pods() {
	for _, entry := range r.d.podEntries() {
		if !entry.mu.TryLock() {
			continue
		}
		if entry.ready && !entry.dead {
			r.pod(entry.record)
		}
		entry.mu.Unlock()
	}
}

func (r *repairs) pod(rec podRecord) {
	dev, err := r.d.nl.LinkByName(hostLinkName(rec.UID))
	if err != nil {
		return // the next Attach makes the pod's network anew
	}
	for name, parent := range map[string]uint32{
		bpf.DatapathProgPodEgress: netlink.HANDLE_MIN_INGRESS, bpf.DatapathProgPodIngress: netlink.HANDLE_MIN_EGRESS,
	} {
		what := fmt.Sprintf("program %s of pod %s/%s", name, rec.Namespace, rec.Name)
		r.filter(dev, parent, name, r.d.progs[name], what, func() error {
			return r.d.filterDevice(dev.Attrs().Index, parent, name, r.d.progs[name])
		})
	}
}

func (d *Datapath) podEntries() []*podEntry {
	d.pods.mu.Lock()
	defer d.pods.mu.Unlock()
	out := make([]*podEntry, 0, len(d.pods.byUID))
	for _, entry := range d.pods.byUID {
		out = append(out, entry)
	}
	return out
}
