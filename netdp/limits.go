package netdp

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"shoal/bpf"
)

// What SetLimits may say: at least what a host needs for itself, and no more than a
// start with other limits can hold in memory while it carries the entries over: about
// 200 bytes for each.
const (
	minSetLimit = 64
	maxSetLimit = 1 << 22
)

// settable are the maps that grow with a cell or with its traffic, as metrics name
// them.
var settable = []string{
	bpf.DatapathMapFlows, bpf.DatapathMapNats, bpf.DatapathMapPolicyConns, bpf.DatapathMapAffinities,
	bpf.DatapathMapServices, bpf.DatapathMapFrontends, bpf.DatapathMapBackends, bpf.DatapathMapSlots,
	bpf.DatapathMapMaglev, bpf.DatapathMapSources,
	bpf.DatapathMapPolicyPeers, bpf.DatapathMapPolicyRules, bpf.DatapathMapPolicyBlocks, bpf.DatapathMapPolicyPorts,
}

// CheckLimits tells what is wrong with Options.SetLimits.
func CheckLimits(limits map[string]uint32) error {
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		n := limits[name]
		switch {
		case !slices.Contains(settable, name):
			return fmt.Errorf("limit of map %q: there is none of this name, or it needs no other limit; those that can be set are %s",
				name, strings.Join(settable, ", "))
		case n < minSetLimit || n > maxSetLimit:
			return fmt.Errorf("limit of map %s: %d is not between %d and %d", name, n, minSetLimit, maxSetLimit)
		case name == bpf.DatapathMapSlots && bits.OnesCount32(n) != 1:
			return fmt.Errorf("limit of map %s: %d is not a power of two", name, n)
		}
	}
	return nil
}

// completeLimits sets what is left open.
func (o *Options) completeLimits() error {
	if err := CheckLimits(o.SetLimits); err != nil {
		return fmt.Errorf("check options: %w", err)
	}
	if o.MaxFlows == 0 {
		o.MaxFlows = DefaultMaxFlows
	}
	if o.Limits == (MapLimits{}) {
		o.Limits = MapLimits{
			Services: maxServices, Frontends: maxFrontends, Backends: maxBackends,
			Slots: maxSlots, MaglevChunks: maxMaglevChunks,
		}
	}
	for name, limit := range map[string]*uint32{
		bpf.DatapathMapServices: &o.Limits.Services, bpf.DatapathMapFrontends: &o.Limits.Frontends,
		bpf.DatapathMapBackends: &o.Limits.Backends, bpf.DatapathMapSlots: &o.Limits.Slots,
		bpf.DatapathMapMaglev: &o.Limits.MaglevChunks,
	} {
		if n, ok := o.SetLimits[name]; ok {
			*limit = n
		}
	}
	return nil
}

// mapLimits is how many entries each map takes whose limit is not in bpf/.
func (o *Options) mapLimits() map[string]uint32 {
	limits := map[string]uint32{
		bpf.DatapathMapServices: o.Limits.Services, bpf.DatapathMapFrontends: o.Limits.Frontends,
		bpf.DatapathMapBackends: o.Limits.Backends, bpf.DatapathMapSlots: o.Limits.Slots,
		bpf.DatapathMapMaglev: o.Limits.MaglevChunks, bpf.DatapathMapPods: 2 * maxPods,
		bpf.DatapathMapFlows: 2 * o.MaxFlows, bpf.DatapathMapNats: o.MaxFlows,
		bpf.DatapathMapRanges: maxRanges, bpf.DatapathMapTunnelPeers: maxTunnelPeers,
		bpf.DatapathMapInside: maxInside, bpf.DatapathMapAffinities: maxAffinities,
		bpf.DatapathMapSources: maxSources, bpf.DatapathMapCallers: 2 * maxPods,
		bpf.DatapathMapServiceCounts:  o.Limits.Services,
		bpf.DatapathMapPolicySubjects: 2 * maxPods,
		bpf.DatapathMapRoutedPods:     2 * maxPods,
		bpf.DatapathMapPolicyPeers:    maxPolicyPeers, bpf.DatapathMapPolicyRules: maxPolicyRules,
		bpf.DatapathMapPolicyBlocks: maxPolicyBlocks, bpf.DatapathMapPolicyPorts: maxPolicyPorts,
		bpf.DatapathMapPolicyConns: o.MaxFlows,
	}
	maps.Copy(limits, o.SetLimits)
	return limits
}
