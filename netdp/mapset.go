package netdp

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"shoal/bpf"
)

// awaited is what must be known before programs may go over to maps that begin
// empty. Until then an earlier daemon's programs serve with theirs.
type awaited uint8

const (
	awaitServices awaited = 1 << iota // SyncComplete
	awaitPolicy                       // a complete SetPolicy
	awaitHosts                        // SetHosts
	awaitRetry                        // nothing: all is known, and the switch-over failed
)

// mapGroup is maps whose entries point at each other: if one changes its shape, all
// are made anew, and if one cannot be carried over, none is.
type mapGroup struct {
	names []string
	await awaited // when their entries were not carried over
}

// serviceMapNames are the maps of services: whoever numbers services and backends
// anew does so in all of them.
var serviceMapNames = []string{
	bpf.DatapathMapFrontends, bpf.DatapathMapServices, bpf.DatapathMapSlots,
	bpf.DatapathMapBackends, bpf.DatapathMapMaglev, bpf.DatapathMapSources,
	bpf.DatapathMapAffinities, bpf.DatapathMapServiceCounts,
}

// policyMapNames are the maps of policy. Verdicts count by the revision they were
// made under, so connections belong to the rules.
var policyMapNames = []string{
	bpf.DatapathMapPolicySubjects, bpf.DatapathMapPolicyPeers, bpf.DatapathMapPolicyRules,
	bpf.DatapathMapPolicyBlocks, bpf.DatapathMapPolicyPorts, bpf.DatapathMapPolicyRevision,
	bpf.DatapathMapPolicyConns,
}

// hostMapNames are written by SetHosts, each by itself.
var hostMapNames = []string{
	bpf.DatapathMapRanges, bpf.DatapathMapInside, bpf.DatapathMapMasquerades, bpf.DatapathMapTunnelPeers,
}

// kernelWritten are the maps that programs write. The datapath works when one of
// them begins empty; connections that were noted in it may end.
var kernelWritten = []string{
	bpf.DatapathMapFlows, bpf.DatapathMapNats, bpf.DatapathMapFragments, bpf.DatapathMapPolicyConns,
	bpf.DatapathMapAffinities, bpf.DatapathMapServiceCounts,
	bpf.DatapathMapSocketPeer, bpf.DatapathMapSocketSent,
}

// isPassing: a map of a moment's news, counters, or programs. Nothing is lost with
// its entries.
func isPassing(spec *ebpf.MapSpec) bool {
	switch spec.Name {
	case bpf.DatapathMapRecorded, bpf.DatapathMapFollowing:
		return true
	}
	return spec.Type == ebpf.RingBuf || spec.Type == ebpf.PerCPUArray || spec.Type == ebpf.ProgramArray
}

// mapGroups sorts all maps but the constants, which belong to one load of the
// programs.
func mapGroups(specs map[string]*ebpf.MapSpec) []mapGroup {
	groups := []mapGroup{{serviceMapNames, awaitServices}, {policyMapNames, awaitPolicy}}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		switch {
		case strings.HasPrefix(name, ".") || slices.Contains(serviceMapNames, name) || slices.Contains(policyMapNames, name):
		case slices.Contains(hostMapNames, name):
			groups = append(groups, mapGroup{[]string{name}, awaitHosts})
		default:
			groups = append(groups, mapGroup{[]string{name}, 0})
		}
	}
	return groups
}

// mapSet is the maps of this daemon's layout. Those that were made now have no pins
// until the programs that use them are in place: a daemon killed before leaves
// nothing, and one killed after it left maps that are filled.
type mapSet struct {
	pins   pins
	specs  map[string]*ebpf.MapSpec
	layout map[string]string // the names of pins
	log    *slog.Logger

	maps     map[string]*ebpf.Map
	unpinned map[string]bool
	carries  []*carry
	begun    map[string]bool // made now, without the entries of an earlier daemon's
	lost     map[string]bool // of these, the ones that had an earlier daemon's
	carried  map[string]bool // made now, with the entries of an earlier daemon's
	await    awaited
}

// openMaps loads each map from its pin, or makes it and carries over what an
// earlier daemon's map of another layout has.
func (p pins) openMaps(specs map[string]*ebpf.MapSpec, log *slog.Logger) (_ *mapSet, err error) {
	s := &mapSet{
		pins: p, specs: specs, layout: layoutNames(specs), log: log,
		maps: map[string]*ebpf.Map{}, unpinned: map[string]bool{},
		begun: map[string]bool{}, lost: map[string]bool{}, carried: map[string]bool{},
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	for _, g := range mapGroups(specs) {
		if err := s.open(g); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// close lets go of all maps.
func (s *mapSet) close() {
	s.endCarries()
	closeMaps(s.maps)
}

// endCarries lets go of the earlier daemon's maps.
func (s *mapSet) endCarries() {
	for _, c := range s.carries {
		c.close()
	}
	s.carries = nil
}

func (s *mapSet) open(g mapGroup) error {
	missing := 0
	for _, name := range g.names {
		m, err := ebpf.LoadPinnedMap(s.pins.mapPath(s.layout[name]), nil)
		if errors.Is(err, os.ErrNotExist) {
			missing++
			continue
		}
		if err != nil {
			return fmt.Errorf("open map %s: %w", name, err)
		}
		s.maps[name] = m
		if err := s.specs[name].Compatible(m); err != nil {
			return fmt.Errorf("open map %s: %w", name, err)
		}
	}
	if missing == 0 {
		return s.resume(g)
	}
	olds, err := s.oldMaps(g)
	if err != nil {
		return err
	}
	if reason := s.replace(g, olds); reason != nil {
		return s.beginAnew(g, olds, reason)
	}
	return nil
}

// oldMaps opens the newest map of another layout for each name that has one.
func (s *mapSet) oldMaps(g mapGroup) (map[string]*ebpf.Map, error) {
	olds := map[string]*ebpf.Map{}
	for _, name := range g.names {
		found, err := s.pins.oldPins(name, s.layout[name])
		if err == nil && len(found) > 0 {
			olds[name], err = ebpf.LoadPinnedMap(s.pins.mapPath(found[0]), nil)
		}
		if err != nil {
			closeMaps(olds)
			return nil, fmt.Errorf("open map %s of an earlier layout: %w", name, err)
		}
	}
	return olds, nil
}

// replace makes the maps of a group that are missing, with the entries of the old
// ones, which it takes out of olds. It fails with the reason why the whole group
// must begin anew.
func (s *mapSet) replace(g mapGroup, olds map[string]*ebpf.Map) error {
	first := len(olds) == 0 && !slices.ContainsFunc(g.names, func(name string) bool { return s.maps[name] != nil })
	for _, name := range g.names {
		if s.maps[name] != nil {
			continue
		}
		if err := s.make(name); err != nil {
			return err
		}
		if first || isPassing(s.specs[name]) {
			continue
		}
		err := s.carryOver(name, olds)
		if err == nil {
			continue
		}
		if !slices.Contains(kernelWritten, name) {
			return fmt.Errorf("map %s: %w", name, err)
		}
		s.lose(name, err)
		_ = s.maps[name].Close() // it may be half full
		if err := s.make(name); err != nil {
			return err
		}
	}
	closeMaps(olds)
	clear(olds)
	return nil
}

// carryOver fills a map that was just made.
func (s *mapSet) carryOver(name string, olds map[string]*ebpf.Map) error {
	old := olds[name]
	if old == nil {
		if slices.Contains(kernelWritten, name) {
			return nil // this version is the first to have it
		}
		return errors.New("there was none")
	}
	c, err := newCarry(name, old, s.maps[name], s.specs[name])
	if err != nil {
		return err
	}
	if err := c.fill(); err != nil {
		c.closeSockets()
		return err
	}
	delete(olds, name)
	s.carries = append(s.carries, c)
	s.carried[name] = true
	delete(s.begun, name)
	return nil
}

// make makes a map that is empty.
func (s *mapSet) make(name string) error {
	m, err := ebpf.NewMap(s.specs[name])
	if err != nil {
		return fmt.Errorf("make map %s: %w", name, err)
	}
	s.maps[name], s.unpinned[name], s.begun[name] = m, true, true
	return nil
}

// beginAnew makes all maps of a group empty. If an earlier daemon's programs are at
// work with entries in theirs, these serve on until ours are filled.
func (s *mapSet) beginAnew(g mapGroup, olds map[string]*ebpf.Map, reason error) error {
	defer closeMaps(olds)
	working, err := s.pins.linkNames()
	if err != nil {
		return err
	}
	if len(working) > 0 && s.mattered(g, olds) {
		s.await |= g.await
	}
	if len(working) > 0 {
		for _, name := range g.names {
			s.lose(name, reason)
		}
	}
	s.carries = slices.DeleteFunc(s.carries, func(c *carry) bool {
		ours := slices.Contains(g.names, c.name)
		if ours {
			c.close()
		}
		return ours
	})
	for _, name := range g.names {
		if m := s.maps[name]; m != nil {
			_ = m.Close()
		}
		delete(s.carried, name)
		if err := s.make(name); err != nil {
			return err
		}
	}
	return nil
}

// mattered tells whether programs do something else with the maps of a group than
// with empty ones.
func (s *mapSet) mattered(g mapGroup, olds map[string]*ebpf.Map) bool {
	name := g.names[0]
	old := olds[name]
	for _, c := range s.carries {
		if c.name == name {
			old = c.old
		}
	}
	if old == nil {
		old = s.maps[name] // another of the group is missing
	}
	if old == nil {
		return true // it could not be made, nor is there another
	}
	if s.begun[name] && old == s.maps[name] {
		return g.await != awaitPolicy // no map, so nobody was isolated
	}
	found := false
	err := readRaw(old, func(n int, _, _ rawBuffer) error {
		found = found || n > 0
		return nil
	})
	return found || err != nil
}

// resume takes in what programs wrote into maps of other layouts, of a group whose
// maps are all there: an earlier daemon was killed while its programs were replaced.
func (s *mapSet) resume(g mapGroup) error {
	for _, name := range g.names {
		if !slices.Contains(kernelWritten, name) {
			continue
		}
		olds, err := s.oldMaps(mapGroup{names: []string{name}})
		if err != nil {
			return err
		}
		for _, old := range olds {
			c, err := newCarry(name, old, s.maps[name], s.specs[name])
			if err != nil {
				_ = old.Close()
				continue // it was told when the new map was made
			}
			s.carries = append(s.carries, c)
		}
	}
	return nil
}

func (s *mapSet) lose(name string, reason error) {
	if s.lost[name] {
		return
	}
	s.lost[name] = true
	s.log.Warn("a kernel map has a new layout and begins empty", "map", name, "reason", reason)
}

// adoptable tells whether the maps of services are an earlier daemon's, or have what
// these had.
func (s *mapSet) adoptable() bool { return !s.begun[bpf.DatapathMapFrontends] }

// again carries what the old programs wrote since the last time.
func (s *mapSet) again() error {
	var errs []error
	for _, c := range s.carries {
		if slices.Contains(kernelWritten, c.name) {
			errs = append(errs, named("carry over map "+c.name, c.again()))
		}
	}
	return errors.Join(errs...)
}

// shared says that this daemon's programs are about to write into its maps as well.
func (s *mapSet) shared() {
	for _, c := range s.carries {
		c.alone = false
	}
}

// pin gives the maps that were made now their pins.
func (s *mapSet) pin() error {
	for name := range s.unpinned {
		if err := replacePin(s.maps[name].Pin, s.pins.mapPath(s.layout[name])); err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
		delete(s.unpinned, name)
	}
	return nil
}
