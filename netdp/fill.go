package netdp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"shoal/bpf"
)

const (
	// fillInterval is how often entries of maps are counted that the programs or
	// the kernel change by themselves.
	fillInterval = time.Minute
	// fillPause between two batches leaves the processor to others.
	fillPause = 20 * time.Millisecond
)

// MapFill says how full a kernel map is.
type MapFill struct {
	Map        string
	Entries    uint32
	MaxEntries uint32
	// Recycles: a full map forgets its least recently used entries.
	Recycles bool
}

// Ratio is between 0 and 1.
func (f MapFill) Ratio() float64 {
	if f.MaxEntries == 0 {
		return 0
	}
	return float64(f.Entries) / float64(f.MaxEntries)
}

// countedMaps are the ones whose entries are counted in the kernel.
var countedMaps = []string{
	bpf.DatapathMapPods, bpf.DatapathMapFlows, bpf.DatapathMapNats, bpf.DatapathMapRanges, bpf.DatapathMapInside,
	bpf.DatapathMapFragments, bpf.DatapathMapTunnelPeers, bpf.DatapathMapRecorded,
	bpf.DatapathMapAffinities, bpf.DatapathMapSources, bpf.DatapathMapCallers,
	bpf.DatapathMapPolicyConns, bpf.DatapathMapPolicySubjects, bpf.DatapathMapPolicyPeers,
	bpf.DatapathMapPolicyRules, bpf.DatapathMapPolicyBlocks, bpf.DatapathMapPolicyPorts,
}

// fills is what was counted last.
type fills struct {
	mu      sync.Mutex // guards counted
	counted map[string]uint32
}

// KeepCounted counts, a batch at a time, how full those maps are that only the
// kernel knows of, until ctx ends.
func (d *Datapath) KeepCounted(ctx context.Context) error {
	tick := time.NewTicker(fillInterval)
	defer tick.Stop()
	for {
		if err := d.countMaps(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("count entries of maps", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (d *Datapath) countMaps(ctx context.Context) error {
	var errs []error
	for _, name := range countedMaps {
		n, err := countEntries(ctx, d.maps[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("count entries of %s: %w", name, err))
			continue
		}
		d.fills.mu.Lock()
		if d.fills.counted == nil {
			d.fills.counted = map[string]uint32{}
		}
		d.fills.counted[name] = n
		d.fills.mu.Unlock()
	}
	return errors.Join(errs...)
}

// countEntries reads a map of any shape and keeps nothing of it.
func countEntries(ctx context.Context, m *ebpf.Map) (total uint32, err error) {
	err = readRaw(m, func(n int, _, _ rawBuffer) error {
		total += uint32(n)
		if n < adoptBatch {
			return nil // nearly always the last one
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(fillPause):
			return nil
		}
	})
	return total, err
}

// MapFills says how full the maps are, in order of name: those of services by
// the daemon's own books, the others as they were counted within the last minute.
func (d *Datapath) MapFills() []MapFill {
	counts := d.table.entries()
	d.fills.mu.Lock()
	for name, n := range d.fills.counted {
		counts[name] = n
	}
	d.fills.mu.Unlock()
	out := make([]MapFill, 0, len(counts))
	for name, n := range counts {
		m := d.maps[name]
		out = append(out, MapFill{Map: name, Entries: n, MaxEntries: m.MaxEntries(), Recycles: m.Type() == ebpf.LRUHash})
	}
	slices.SortFunc(out, func(a, b MapFill) int { return cmp.Compare(a.Map, b.Map) })
	return out
}

// entries counts what the kernel's service maps hold.
func (t *table) entries() map[string]uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string]uint32{
		bpf.DatapathMapFrontends: uint32(len(t.frontends)),
		bpf.DatapathMapServices:  uint32(len(t.byKey) + len(t.adopted)),
		bpf.DatapathMapBackends:  0, bpf.DatapathMapSlots: 0, bpf.DatapathMapMaglev: 0,
	}
	count := func(live *liveService) {
		out[bpf.DatapathMapBackends] += uint32(len(live.members))
		out[bpf.DatapathMapMaglev] += chunksOf(live.maglev.size)
		if live.order >= 0 {
			out[bpf.DatapathMapSlots] += 1 << live.order
		}
	}
	for _, live := range t.byKey {
		count(live)
	}
	for live := range t.adopted {
		count(live)
	}
	return out
}
