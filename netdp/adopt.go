package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"shoal/bpf"
)

// adoptBatch is how many map entries one system call reads.
const adoptBatch = 4096

// adopt learns what an earlier daemon left in the maps, so that its entries
// are used on: the same service and backend keep their numbers, and with them
// every connection that was made under these.
func (t *table) adopt() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	byID := map[uint32]*liveService{}
	err := readMap(t.maps.frontends, func(key bpf.DatapathFrontendKey, value bpf.DatapathFrontend) {
		live := byID[value.Service]
		if live == nil {
			live = &liveService{id: value.Service, proto: Proto(key.Proto), order: -1}
			byID[value.Service] = live
		}
		live.faces = append(live.faces, face{key: key, outside: value.Flags&frontendOutside != 0})
		t.frontends[key] = live
	})
	if err != nil {
		return fmt.Errorf("read frontends: %w", err)
	}
	if err := t.adoptBackends(byID); err != nil {
		return err
	}
	for _, live := range byID {
		if err := t.adoptService(live); err != nil {
			return err
		}
	}
	return nil
}

// adoptBackends also wipes entries whose service has no address any more: the
// daemon was killed between the two steps of a deletion.
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

func (t *table) adoptService(live *liveService) error {
	var s bpf.DatapathService
	if err := t.maps.services.Lookup(live.id, &s); err != nil {
		return fmt.Errorf("read service: %w", err)
	}
	slices.SortFunc(live.members, func(a, b member) int { return a.addr.Compare(b.addr) })
	live.maglev.size = s.Maglev
	base, count := uint32(s.Extent>>32), uint32(s.Extent)
	live.base, live.order = base, orderOf(count)
	if err := t.extents.take(base, live.order); err != nil {
		return fmt.Errorf("read service: %w", err)
	}
	live.slots = make([]uint32, count)
	for i := range live.slots {
		if err := t.maps.slots.Lookup(base+uint32(i), &live.slots[i]); err != nil {
			return fmt.Errorf("read slot: %w", err)
		}
	}
	t.serviceIDs.take(live.id)
	t.adopted[live] = struct{}{}
	return nil
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
