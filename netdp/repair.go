package netdp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"shoal/bpf"
)

const (
	// repairInterval is how long a program or pin that somebody took away stays
	// unnoticed. A round asks the kernel some dozens of questions.
	repairInterval = 5 * time.Second
	// wholeRounds: filters of pods, and routes, addresses and settings, are looked at
	// when the kernel said that some have changed, and every so many rounds in case it
	// could not say so: that is a dozen questions for each pod.
	wholeRounds = 60
	// statePause is the least time between two looks at routes, addresses and
	// settings: pods that come and go have the kernel say much.
	statePause = time.Second
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

// KeepAttached puts back what is missing of the datapath and tells of it, until ctx
// ends: what the kernel says has gone at once, programs and pins within seconds. The
// same failure is told once.
func (d *Datapath) KeepAttached(ctx context.Context, tell func(Repair)) error {
	return d.keepAttached(ctx, repairInterval, tell)
}

func (d *Datapath) keepAttached(ctx context.Context, every time.Duration, tell func(Repair)) error {
	watch, err := d.watchHost(ctx)
	if err != nil {
		return err
	}
	defer func() { <-watch.ended }()
	tick := time.NewTicker(every)
	defer tick.Stop()
	failed := map[string]string{}
	lost, pause := watch.state, (<-chan time.Time)(nil)
	var again bool // something of the state is still missing
	for round := 0; ; {
		what := parts{state: again}
		select {
		case <-ctx.Done():
			return nil
		case <-pause:
			lost, pause = watch.state, nil
			continue
		case <-lost:
			what = parts{state: true}
			lost, pause = nil, time.After(statePause)
		case <-tick.C:
			whole := round%wholeRounds == 0
			what = parts{attached: true, pods: watch.filters.Swap(false) || whole, state: again || whole}
			round++
		}
		found, held := d.repair(what)
		now := map[string]string{}
		for _, r := range found {
			if r.Err != nil {
				now[r.What] = r.Err.Error()
				if failed[r.What] == now[r.What] {
					continue
				}
			}
			tell(r)
		}
		if what.attached {
			failed = now
		} else {
			maps.Copy(failed, now)
		}
		if what.state {
			again = held || len(now) > 0
		}
	}
}

// parts are what a round looks at.
type parts struct {
	attached bool // programs, pins and maps
	pods     bool // pods' programs
	state    bool // routes, addresses, settings
}

// Repair does one round of KeepAttached, and looks at everything.
func (d *Datapath) Repair() []Repair {
	found, _ := d.repair(parts{attached: true, pods: true, state: true})
	return found
}

// repair also tells whether it left something for later, as somebody keeps taking it
// away.
func (d *Datapath) repair(what parts) (found []Repair, held bool) {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	r := &repairs{d: d}
	if d.await == awaitRetry && what.attached {
		r.add(d.settle(awaitRetry), "programs of an earlier daemon were still in place")
	}
	if d.await != 0 { // an earlier daemon's programs serve until ours have all they need
		return r.found, what.state
	}
	if what.attached {
		if r.bpffs() {
			r.maps()
			r.sock()
			r.uplinks()
		}
		r.tunnels()
		r.ipsec()
	}
	if what.pods {
		r.pods()
	}
	if what.state {
		r.state()
	}
	for _, found := range r.found {
		d.repaired.count(found)
	}
	return r.found, r.held
}

// repairs is one round. It runs with the datapath's attaching held.
type repairs struct {
	d     *Datapath
	found []Repair
	held  bool // something was left for later

	restored map[lossKind]*restored // by state
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
		{gatheredDevice, netlink.HANDLE_MIN_INGRESS, bpf.DatapathProgGatherIngress},
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

func (r *repairs) pods() { r.eachPod(r.pod) }

// eachPod leaves out those that are being made or taken away.
func (r *repairs) eachPod(f func(podRecord)) {
	for _, entry := range r.d.podEntries() {
		if !entry.mu.TryLock() {
			continue
		}
		if entry.ready && !entry.dead {
			f(entry.record)
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
