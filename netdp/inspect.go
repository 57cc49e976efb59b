package netdp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"shoal/bpf"
)

// KernelServices reads back what the kernel forwards, one entry for each
// address a service is called at. It tells what is, not what was set: the keys
// are those of this daemon's SetService, empty for what an earlier one left.
func (d *Datapath) KernelServices() ([]Service, error) {
	byID := map[uint32][]Backend{}
	err := readMap(d.table.maps.backends, func(_ uint32, b bpf.DatapathBackend) {
		if b.State != backendGone {
			byID[b.Service] = append(byID[b.Service], Backend{
				Addr:     netip.AddrPortFrom(addrFromWire(b.Addr), wirePort(b.Port)),
				Draining: b.State == backendDraining,
			})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read backends: %w", err)
	}
	keys := d.table.keys()
	var out []Service
	err = readMap(d.table.maps.frontends, func(key bpf.DatapathFrontendKey, fe bpf.DatapathFrontend) {
		backends := slices.Clone(byID[fe.Service])
		slices.SortFunc(backends, func(a, b Backend) int { return a.Addr.Compare(b.Addr) })
		face := Frontend{Addr: addrFromWire(key.Addr), Port: wirePort(key.Port)}
		face.Outside = face.Addr.IsValid() && fe.Flags&frontendOutside != 0
		out = append(out, Service{
			Key: keys[fe.Service], Proto: Proto(key.Proto), Backends: backends, Frontends: []Frontend{face},
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read frontends: %w", err)
	}
	slices.SortFunc(out, func(a, b Service) int {
		fa, fb := a.Frontends[0], b.Frontends[0]
		return cmp.Or(fa.Addr.Compare(fb.Addr), cmp.Compare(fa.Port, fb.Port), cmp.Compare(a.Proto, b.Proto))
	})
	return out, nil
}

func (t *table) keys() map[uint32]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[uint32]string, len(t.byKey))
	for key, live := range t.byKey {
		out[live.id] = key
	}
	return out
}
