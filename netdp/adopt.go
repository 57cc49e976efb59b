package netdp

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"shoal/bpf"
)

// adoptBatch is how many map entries one system call reads.
const adoptBatch = 4096

// adopt learns what an earlier daemon left in the maps, so that its entries
// are used on: the same service and backend keep their numbers, and with them
// every connection that was made under these. Entries that do not fit together
// are logged and begin anew; the errors are those of system calls.
func (t *table) adopt(log *slog.Logger) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	byID := map[uint32]*liveService{}
	err := readMap(t.maps.frontends, func(key bpf.DatapathFrontendKey, value bpf.DatapathFrontend) {
		live := byID[value.Service]
		if live == nil {
			live = &liveService{id: value.Service, proto: Proto(key.Proto), order: -1}
			byID[value.Service] = live
		}
		live.faces = append(live.faces, face{
			key: key, outside: value.Flags&frontendOutside != 0, exact: value.Flags&frontendExact != 0,
			filtered: value.Flags&frontendSources != 0, own: value.Flags&frontendOwn != 0,
		})
		t.frontends[key] = live
	})
	if err != nil {
		return fmt.Errorf("read frontends: %w", err)
	}
	if err := firstError(t.adoptBackends(byID), t.adoptSources(byID)); err != nil {
		return err
	}
	for _, live := range byID {
		if err := t.adoptService(live, byID, log); err != nil {
			return err
		}
	}
	return t.wipeOrphans(byID)
}

// wipeOrphans empties what no service uses: the daemon was killed between two
// steps of a change.
func (t *table) wipeOrphans(byID map[uint32]*liveService) error {
	var stale []uint32
	err := readMap(t.maps.services, func(id uint32, s bpf.DatapathService) {
		if byID[id] == nil && s != (bpf.DatapathService{}) {
			stale = append(stale, id)
		}
	})
	if err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	for _, id := range stale {
		if err := t.maps.putService(id, bpf.DatapathService{}); err != nil {
			return err
		}
	}
	used := map[uint32]struct{}{}
	for _, live := range byID {
		for i := range live.slots {
			used[live.base+uint32(i)] = struct{}{}
		}
	}
	stale = stale[:0]
	err = readMap(t.maps.slots, func(i, backend uint32) {
		if _, ok := used[i]; !ok && backend != 0 {
			stale = append(stale, i)
		}
	})
	if err != nil {
		return fmt.Errorf("read slots: %w", err)
	}
	if err := t.maps.putSlots(stale, make([]uint32, len(stale))); err != nil {
		return err
	}
	return t.wipeOrphanMaglev(byID)
}

func (t *table) wipeOrphanMaglev(byID map[uint32]*liveService) error {
	var stale []bpf.DatapathMaglevKey
	err := readMap(t.maps.maglev, func(key bpf.DatapathMaglevKey, _ bpf.DatapathMaglevChunk) {
		if live := byID[key.Service]; live == nil || key.Chunk >= chunksOf(live.maglev.size) {
			stale = append(stale, key)
		}
	})
	if err != nil {
		return fmt.Errorf("read maglev tables: %w", err)
	}
	for _, key := range stale {
		if err := t.maps.deleteMaglev(key); err != nil {
			return err
		}
	}
	return nil
}

// adoptBackends also empties entries whose service has no address any more.
func (t *table) adoptBackends(byID map[uint32]*liveService) error {
	var orphans []uint32
	err := readMap(t.maps.backends, func(id uint32, b bpf.DatapathBackend) {
		if b.State == backendGone {
			return
		}
		live := byID[b.Service]
		if live == nil {
			orphans = append(orphans, id)
			return
		}
		addr := netip.AddrPortFrom(addrFromWire(b.Addr), wirePort(b.Port))
		live.members = append(live.members, member{addr: addr, id: id, state: b.State})
		t.backendIDs.take(id)
	})
	if err != nil {
		return fmt.Errorf("read backends: %w", err)
	}
	return t.maps.putBackends(orphans, make([]bpf.DatapathBackend, len(orphans)))
}

// adoptSources also deletes those of a service that has no address any more.
func (t *table) adoptSources(byID map[uint32]*liveService) error {
	var orphans []bpf.DatapathSourceKey
	err := readMap(t.maps.sources, func(key bpf.DatapathSourceKey, _ uint32) {
		if live := byID[key.Service]; live != nil {
			live.sources = append(live.sources, sourceFromKey(key))
		} else {
			orphans = append(orphans, key)
		}
	})
	if err != nil {
		return fmt.Errorf("read source ranges: %w", err)
	}
	for _, key := range orphans {
		if err := t.maps.deleteSource(key); err != nil {
			return err
		}
	}
	return nil
}

// adoptService takes a service out of byID that has no entry of its own. One
// whose slots are not its alone keeps its numbers and is given others when it is
// set next; until then it has no backends.
func (t *table) adoptService(live *liveService, byID map[uint32]*liveService, log *slog.Logger) error {
	var s bpf.DatapathService
	err := t.maps.services.Lookup(live.id, &s)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		log.Warn("forget service found in the kernel: it has addresses and no entry", "service", live.id)
		delete(byID, live.id)
		return t.forget(live)
	}
	if err != nil {
		return fmt.Errorf("read service: %w", err)
	}
	slices.SortFunc(live.members, func(a, b member) int { return a.addr.Compare(b.addr) })
	live.maglev.size, live.affinitySeconds, live.published = s.Maglev, s.AffinitySeconds, s
	t.serviceIDs.take(live.id)
	t.adopted[live] = struct{}{}
	base, count := uint32(s.Extent>>32), uint32(s.Extent)
	if count == 0 { // it may have no run at all: a full map had none for it
		return nil
	}
	order := orderOf(count)
	if err := t.extents.take(base, order); err != nil {
		log.Warn("begin slots of service found in the kernel anew", "service", live.id, "error", err)
		return t.publish(live)
	}
	live.base, live.order = base, order
	live.slots = make([]uint32, count)
	for i := range live.slots {
		if err := t.maps.slots.Lookup(base+uint32(i), &live.slots[i]); err != nil {
			return fmt.Errorf("read slot: %w", err)
		}
	}
	return nil
}

// forget deletes what leads to a service that was found and cannot be used.
func (t *table) forget(live *liveService) error {
	for _, f := range live.faces {
		if err := t.maps.deleteFrontend(f.key); err != nil {
			return err
		}
		delete(t.frontends, f.key)
	}
	return firstError(t.dropSources(live, nil), t.dropBackends(live.members))
}

// readMap calls f for every entry, a batch at a time.
func readMap[K comparable, V any](m *ebpf.Map, f func(K, V)) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]K, adoptBatch), make([]V, adoptBatch)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			f(keys[i], values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
