package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"shoal/bpf"
)

// maxSourcesPerService keeps one service from filling the map of all.
const maxSourcesPerService = 1024

// normalizedSources are masked, in order and without doubles.
func normalizedSources(in []netip.Prefix) ([]netip.Prefix, error) {
	if len(in) > maxSourcesPerService {
		return nil, fmt.Errorf("%d source ranges are more than %d; join some", len(in), maxSourcesPerService)
	}
	out := make([]netip.Prefix, 0, len(in))
	for _, p := range in {
		if !p.IsValid() {
			return nil, errors.New("a source range is not valid")
		}
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out), nil
}

// sourceKeyBits are those of service and family.
const sourceKeyBits = 64

// sourceKey counts also those and, of IPv4, the bits of the mapping.
func sourceKey(service uint32, p netip.Prefix) bpf.DatapathSourceKey {
	key := bpf.DatapathSourceKey{
		Bits: uint32(sourceKeyBits + p.Bits()), Service: service, Family: 6, Addr: wireAddr(p.Addr()),
	}
	if p.Addr().Is4() {
		key.Bits += 96
		key.Family = 4
	}
	return key
}

func sourceFromKey(key bpf.DatapathSourceKey) netip.Prefix {
	bits := int(key.Bits) - sourceKeyBits
	if key.Family == 4 {
		return netip.PrefixFrom(addrFromWire(key.Addr), bits-96)
	}
	if key.Addr == ([4]uint32{}) {
		return netip.PrefixFrom(netip.IPv6Unspecified(), bits)
	}
	return netip.PrefixFrom(addrFromWire(key.Addr), bits)
}

// addSources comes before the frontends that look at them, dropSources after:
// who may call is never refused.
func (t *table) addSources(live *liveService, want []netip.Prefix) error {
	for _, p := range want {
		if slices.Contains(live.sources, p) {
			continue
		}
		if err := t.maps.putSource(sourceKey(live.id, p)); err != nil {
			return err
		}
		live.sources = append(live.sources, p)
	}
	return nil
}

func (t *table) dropSources(live *liveService, keep []netip.Prefix) error {
	for _, p := range live.sources {
		if slices.Contains(keep, p) {
			continue
		}
		if err := t.maps.deleteSource(sourceKey(live.id, p)); err != nil {
			return err
		}
	}
	live.sources = keep
	return nil
}
