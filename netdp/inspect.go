package netdp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"shoal/bpf"
)

// KernelServices reads back what the kernel forwards, one entry for each
// address a service is called at. It tells what is, not what was set: the keys
// are those of this daemon's SetService, empty for what an earlier one left.
func (d *Datapath) KernelServices() ([]Service, error) {
	byID := map[uint32][]Backend{}
	err := readMap(d.table.maps.backends, func(_ uint32, b bpf.DatapathBackend) {
		if b.State != backendGone {
			byID[b.Service] = append(byID[b.Service], backendFromWire(b))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read backends: %w", err)
	}
	sources := map[uint32][]netip.Prefix{}
	err = readMap(d.table.maps.sources, func(key bpf.DatapathSourceKey, _ uint32) {
		sources[key.Service] = append(sources[key.Service], sourceFromKey(key))
	})
	if err != nil {
		return nil, fmt.Errorf("read source ranges: %w", err)
	}
	affinity := map[uint32]uint32{}
	err = readMap(d.table.maps.services, func(id uint32, s bpf.DatapathService) {
		if s.AffinitySeconds != 0 {
			affinity[id] = s.AffinitySeconds
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	keys := d.table.keys()
	var out []Service
	err = readMap(d.table.maps.frontends, func(key bpf.DatapathFrontendKey, fe bpf.DatapathFrontend) {
		backends, ranges := slices.Clone(byID[fe.Service]), slices.Clone(sources[fe.Service])
		slices.SortFunc(backends, func(a, b Backend) int { return a.Addr.Compare(b.Addr) })
		slices.SortFunc(ranges, netip.Prefix.Compare)
		face := frontendOf(key)
		face.Filtered = fe.Flags&frontendSources != 0
		face.Outside = !face.nodePort() && fe.Flags&frontendOutside != 0
		out = append(out, Service{
			Key: keys[fe.Service], Proto: Proto(key.Proto), Backends: backends, Frontends: []Frontend{face},
			LocalOutside: fe.Flags&frontendExact != 0, AffinitySeconds: affinity[fe.Service], Sources: ranges,
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

// ServiceAt says which service is called at an address, or that it is of the range
// of their addresses; empty: neither. Drivers that give out addresses themselves ask.
func (d *Datapath) ServiceAt(addr netip.Addr) string {
	if key, ok := d.table.at(addr); ok {
		return strings.TrimSpace("service " + key)
	}
	for _, r := range []netip.Prefix{d.opts.ServiceCIDR, d.opts.ServiceCIDR6} {
		if r.Contains(addr) {
			return fmt.Sprintf("the services' range %s", r)
		}
	}
	return ""
}

// at is the key of a service with that address, empty while it is an earlier
// daemon's.
func (t *table) at(addr netip.Addr) (key string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, live := range t.frontends {
		if f := frontendOf(key); !f.nodePort() && f.Addr == addr {
			return live.key, true
		}
	}
	return "", false
}

func backendFromWire(b bpf.DatapathBackend) Backend {
	out := Backend{Addr: netip.AddrPortFrom(addrFromWire(b.Addr), wirePort(b.Port))}
	switch b.State & backendActive {
	case 0:
		out.Draining = true
	case backendInside:
		out.Callers = OnlyInside
	case backendOutside:
		out.Callers = OnlyOutside
	}
	return out
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
