package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"shoal/bpf"
)

// table is what the kernel's service maps hold, and the only writer of them.
// It needs the kernel only to write: what to write follows from what it knows.
type table struct {
	maps       serviceMaps
	mu         sync.Mutex   // guards all below
	nodeIPs    []netip.Addr // at which node ports are called
	byKey      map[string]*liveService
	frontends  map[bpf.DatapathFrontendKey]*liveService
	adopted    map[*liveService]struct{} // from an earlier daemon, not set since
	serviceIDs *ids
	backendIDs *ids
	extents    *extents
	maglevSeed uint32
}

// liveService is one service as the kernel has it.
type liveService struct {
	key     string // empty while adopted
	proto   Proto
	id      uint32
	base    uint32
	order   int // the run holds 1<<order slots; -1: it has none
	slots   []uint32
	members []member // in order of address
	faces   []face
	maglev  maglevState

	affinitySeconds uint32
	sources         []netip.Prefix
	published       bpf.DatapathService // as the kernel has it
}

type member struct {
	addr  netip.AddrPort
	id    uint32
	state uint8 // of struct backend
}

// stateOf says which callers give a backend new connections.
func stateOf(b Backend) uint8 {
	switch {
	case b.Draining:
		return backendDraining
	case b.Callers == OnlyInside:
		return backendInside
	case b.Callers == OnlyOutside:
		return backendOutside
	}
	return backendActive
}

type face struct {
	key     bpf.DatapathFrontendKey
	outside bool
	exact   bool

	filtered bool
	own      bool // at an address of this host, and no node port
}

func newTable(maps serviceMaps, limits MapLimits, maglevSeed uint32) *table {
	return &table{
		maps:       maps,
		byKey:      map[string]*liveService{},
		frontends:  map[bpf.DatapathFrontendKey]*liveService{},
		adopted:    map[*liveService]struct{}{},
		serviceIDs: newIDs(limits.Services),
		backendIDs: newIDs(limits.Backends),
		extents:    newExtents(limits.Slots),
		maglevSeed: maglevSeed,
	}
}

// set makes the kernel's entries equal to s, writing only what differs. gone
// tells whether a UDP backend went away.
func (t *table) set(s Service) (gone bool, err error) {
	s, err = s.normalized()
	if err != nil {
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	live, err := t.find(s)
	if err != nil {
		return false, err
	}
	live.affinitySeconds = s.AffinitySeconds
	gone, full := t.setBackends(live, s.Backends)
	if full == nil || errors.Is(full, ErrFull) {
		// With some of its backends it is served by these meanwhile.
		full = errors.Join(full, t.setMaglev(live, s))
	}
	if full != nil && !errors.Is(full, ErrFull) {
		return gone, fmt.Errorf("set service %s: %w", s.Key, full)
	}
	for _, step := range []func() error{
		func() error { return t.publish(live) },
		func() error { return t.addSources(live, s.Sources) },
		func() error { return t.setFrontends(live, s) },
		func() error { return t.dropSources(live, s.Sources) },
	} {
		if err := step(); err != nil {
			return gone, fmt.Errorf("set service %s: %w", s.Key, errors.Join(full, err))
		}
	}
	if full != nil {
		return gone, fmt.Errorf("set service %s: %w", s.Key, full)
	}
	return gone, nil
}

// find returns the entries of s: those it has, those an earlier daemon made for
// one of its addresses, or new ones.
func (t *table) find(s Service) (*liveService, error) {
	live := t.byKey[s.Key]
	for _, f := range s.Frontends {
		holder := t.frontends[frontendKey(f, s.Proto)]
		if holder == nil || holder == live {
			continue
		}
		if _, ok := t.adopted[holder]; !ok {
			return nil, &FrontendTakenError{Service: s.Key, Holder: holder.key, Frontend: f, Proto: s.Proto}
		}
		if live == nil {
			live = holder
			live.key = s.Key
			delete(t.adopted, holder)
			t.byKey[s.Key] = live
		}
	}
	if err := t.overlaps(s, live); err != nil {
		return nil, err
	}
	if live != nil {
		return live, nil
	}
	id, err := t.serviceIDs.alloc()
	if err != nil {
		return nil, fmt.Errorf("set service %s: %w", s.Key, err)
	}
	live = &liveService{key: s.Key, proto: s.Proto, id: id, order: -1}
	t.byKey[s.Key] = live
	return live, nil
}

// overlaps finds a node port that another service has at one of this host's
// addresses, or the other way round: a hostPort, for one.
func (t *table) overlaps(s Service, live *liveService) error {
	for _, f := range s.Frontends {
		for _, other := range t.sameAs(f) {
			holder := t.frontends[frontendKey(other, s.Proto)]
			if holder == nil || holder == live {
				continue
			}
			if _, ok := t.adopted[holder]; !ok {
				return &FrontendTakenError{Service: s.Key, Holder: holder.key, Frontend: f, Proto: s.Proto}
			}
		}
	}
	return nil
}

// sameAs are other frontends by which the same calls come.
func (t *table) sameAs(f Frontend) (out []Frontend) {
	if f.Port < nodePortMin || f.Port > nodePortMax {
		return nil
	}
	if slices.Contains(t.nodeIPs, f.Addr) {
		if f.Addr.Is6() {
			return []Frontend{{Addr: NodePortIPv6, Port: f.Port}}
		}
		return []Frontend{{Port: f.Port}}
	}
	for _, ip := range t.nodeIPs {
		if f.nodePort() && ip.Is6() == f.Addr.Is6() {
			out = append(out, Frontend{Addr: ip, Port: f.Port})
		}
	}
	return out
}

// backendChange is the difference between what is and what should be.
type backendChange struct {
	members []member
	write   []stateChange
	fresh   []member // those that are new
	gone    []member
	full    error // there was no room for all
}

// stateChange is a backend whose entry is written.
type stateChange struct {
	index int   // into members
	was   uint8 // state, backendGone when it is new
}

// diffBackends walks both sorted lists once.
func (t *table) diffBackends(live *liveService, want []Backend) backendChange {
	c := backendChange{members: make([]member, 0, len(want))}
	old := live.members
	for _, b := range want {
		for len(old) > 0 && old[0].addr.Compare(b.Addr) < 0 {
			c.gone = append(c.gone, old[0])
			old = old[1:]
		}
		m := member{addr: b.Addr, state: stateOf(b)}
		if len(old) > 0 && old[0].addr == b.Addr {
			m.id = old[0].id
			if old[0].state != m.state {
				c.write = append(c.write, stateChange{len(c.members), old[0].state})
			}
			old = old[1:]
		} else {
			id, err := t.backendIDs.alloc()
			if err != nil {
				c.full = err
				continue
			}
			m.id = id
			c.fresh = append(c.fresh, m)
			c.write = append(c.write, stateChange{len(c.members), backendGone})
		}
		c.members = append(c.members, m)
	}
	c.gone = append(c.gone, old...)
	return c
}

// setBackends orders the writes so that a reader always finds a backend that
// takes traffic: entries before slots, slots before a larger count, a smaller
// count before slots, and what goes goes last.
func (t *table) setBackends(live *liveService, want []Backend) (gone bool, err error) {
	c := t.diffBackends(live, want)
	if err := t.writeBackends(live, c, begins); err != nil {
		return false, errors.Join(err, t.dropBackends(c.fresh))
	}
	slots := arrange(live.slots, c.members)
	err = t.setSlots(live, slots)
	switch {
	case errors.Is(err, ErrFull) && live.order >= 0: // no slot was changed
		// As many as fit, those that stay first: who has left goes all the same.
		c.full = errors.Join(c.full, err)
		if err := t.setSlots(live, slots[:1<<live.order]); err != nil {
			return false, err
		}
	case errors.Is(err, ErrFull):
		return false, errors.Join(err, t.dropBackends(c.fresh))
	case err != nil:
		return false, err
	}
	if err := t.writeBackends(live, c, ends); err != nil {
		return false, err
	}
	live.members = c.members
	return len(c.gone) > 0 && live.proto == UDP, errors.Join(t.dropBackends(c.gone), c.full)
}

// begins is what a backend is before the slots change: what it becomes, and
// still what it was for those who find it by them. No change: it is not written.
func begins(was, is uint8) uint8 {
	if is&backendActive == 0 && was != backendGone {
		return was
	}
	if was&backendActive == 0 {
		return is
	}
	return was | is
}

// ends is what it is afterwards, given the same two.
func ends(_, is uint8) uint8 { return is }

func (t *table) writeBackends(live *liveService, c backendChange, state func(was, is uint8) uint8) error {
	var ids []uint32
	var values []bpf.DatapathBackend
	for i, w := range c.write {
		m := c.members[w.index]
		next := state(w.was, m.state)
		if next == w.was {
			continue
		}
		c.write[i].was = next
		ids = append(ids, m.id)
		values = append(values, bpf.DatapathBackend{
			Addr: wireAddr(m.addr.Addr()), Port: wirePort(m.addr.Port()),
			Proto: uint8(live.proto), State: next, Service: live.id,
		})
	}
	return t.maps.putBackends(ids, values)
}

func (t *table) dropBackends(gone []member) error {
	ids := make([]uint32, len(gone))
	for i, m := range gone {
		ids[i] = m.id
	}
	if err := t.maps.putBackends(ids, make([]bpf.DatapathBackend, len(ids))); err != nil {
		return err
	}
	for _, id := range ids {
		t.backendIDs.release(id)
	}
	return nil
}

// arrange keeps every backend that stays in its slot, fills holes from the end
// and appends what is new: one change moves at most one other slot.
func arrange(slots []uint32, members []member) []uint32 {
	missing := map[uint32]struct{}{}
	for _, m := range members {
		if m.state&backendInside != 0 {
			missing[m.id] = struct{}{}
		}
	}
	out := make([]uint32, 0, len(missing))
	for _, id := range slots {
		if _, ok := missing[id]; ok {
			delete(missing, id)
			out = append(out, id)
		} else {
			out = append(out, 0)
		}
	}
	for _, m := range members {
		if _, ok := missing[m.id]; !ok {
			continue
		}
		if hole := slices.Index(out, 0); hole >= 0 {
			out[hole] = m.id
		} else {
			out = append(out, m.id)
		}
	}
	return fillHoles(out)
}

func fillHoles(slots []uint32) []uint32 {
	for i := 0; i < len(slots); i++ {
		for len(slots) > i && slots[len(slots)-1] == 0 {
			slots = slots[:len(slots)-1]
		}
		if i < len(slots) && slots[i] == 0 {
			slots[i] = slots[len(slots)-1]
			slots = slots[:len(slots)-1]
		}
	}
	return slots
}

func (t *table) setSlots(live *liveService, want []uint32) error {
	if slices.Equal(live.slots, want) && live.order >= 0 {
		return nil
	}
	if live.order < 0 || len(want) > 1<<live.order {
		return t.moveSlots(live, want)
	}
	old := live.slots
	if len(want) < len(old) {
		live.slots = live.slots[:len(want)]
		if err := t.publish(live); err != nil {
			return err
		}
	}
	var indexes, values []uint32
	for i := range max(len(want), len(old)) {
		id := at(want, i) // 0 empties a slot that is no longer used
		if i >= len(old) || old[i] != id {
			indexes = append(indexes, live.base+uint32(i))
			values = append(values, id)
		}
	}
	if err := t.maps.putSlots(indexes, values); err != nil {
		return err
	}
	live.slots = want
	if len(want) <= len(old) {
		return nil
	}
	return t.publish(live)
}

func at(slots []uint32, i int) uint32 {
	if i < len(slots) {
		return slots[i]
	}
	return 0
}

// moveSlots gives a service that outgrew its run a larger one; readers go over
// to it in one step.
func (t *table) moveSlots(live *liveService, want []uint32) error {
	order := orderOf(uint32(len(want)))
	base, err := t.extents.alloc(order)
	if err != nil {
		return err
	}
	if err := t.maps.putSlots(run(base, len(want)), want); err != nil {
		t.extents.release(base, order)
		return err
	}
	was := *live
	live.base, live.order, live.slots = base, order, want
	if err := t.publish(live); err != nil {
		return err
	}
	return t.freeSlots(&was)
}

// freeSlots empties and returns the run of a service that nobody reads any more.
func (t *table) freeSlots(live *liveService) error {
	if live.order < 0 {
		return nil
	}
	n := len(live.slots)
	if err := t.maps.putSlots(run(live.base, n), make([]uint32, n)); err != nil {
		return err
	}
	t.extents.release(live.base, live.order)
	return nil
}

// run is the n numbers from base on.
func run(base uint32, n int) []uint32 {
	out := make([]uint32, n)
	for i := range out {
		out[i] = base + uint32(i)
	}
	return out
}

// publish writes the one word that readers start from.
func (t *table) publish(live *liveService) error {
	next := bpf.DatapathService{
		Extent: uint64(live.base)<<32 | uint64(len(live.slots)),
		Maglev: live.maglev.size, AffinitySeconds: live.affinitySeconds,
	}
	if next == live.published {
		return nil
	}
	if err := t.maps.putService(live.id, next); err != nil {
		return err
	}
	live.published = next
	return nil
}

// setFrontends adds before it removes, so a service that changes its address
// is never without one.
func (t *table) setFrontends(live *liveService, s Service) error {
	want := make([]face, 0, len(s.Frontends))
	for _, f := range s.Frontends {
		want = append(want, face{
			key: frontendKey(f, s.Proto), outside: f.outside(), exact: f.outside() && s.LocalOutside,
			filtered: f.Filtered, own: slices.Contains(t.nodeIPs, f.Addr),
		})
	}
	var full error // what goes makes room for the next try
	for _, f := range want {
		if slices.Contains(live.faces, f) && t.frontends[f.key] == live {
			continue
		}
		if err := t.maps.putFrontend(f, live.id); errors.Is(err, ErrFull) {
			full = err
			continue
		} else if err != nil {
			return err
		}
		t.frontends[f.key] = live
		// At once, so that what a full map left out does not hide what it took.
		live.faces = append(live.faces, f)
	}
	for _, f := range live.faces {
		kept := slices.ContainsFunc(want, func(w face) bool { return w.key == f.key })
		if kept || t.frontends[f.key] != live {
			continue
		}
		if err := t.maps.deleteFrontend(f.key); err != nil {
			return errors.Join(err, full)
		}
		delete(t.frontends, f.key)
	}
	live.faces = slices.DeleteFunc(want, func(f face) bool { return t.frontends[f.key] != live })
	return full
}

// remove takes a service away: first nobody finds it, then it goes.
func (t *table) remove(key string) (gone bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	live := t.byKey[key]
	if live == nil {
		return false, nil
	}
	if err := t.drop(live); err != nil {
		return false, fmt.Errorf("delete service %s: %w", key, err)
	}
	return live.proto == UDP, nil
}

func (t *table) drop(live *liveService) error {
	if err := t.setFrontends(live, Service{Proto: live.proto}); err != nil {
		return err
	}
	if err := firstError(t.dropMaglev(live), t.dropSources(live, nil)); err != nil {
		return err
	}
	if err := t.maps.putService(live.id, bpf.DatapathService{}); err != nil {
		return err
	}
	if err := t.freeSlots(live); err != nil {
		return err
	}
	if err := t.dropBackends(live.members); err != nil {
		return err
	}
	if err := t.maps.putCounts(live.id, bpf.DatapathServiceCalls{}); err != nil {
		return err
	}
	t.serviceIDs.release(live.id)
	delete(t.byKey, live.key)
	delete(t.adopted, live)
	return nil
}

// complete drops what an earlier daemon left and nobody has set since.
func (t *table) complete() (dropped int, gone bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for live := range t.adopted {
		if err := t.drop(live); err != nil {
			return dropped, gone, fmt.Errorf("drop stale service: %w", err)
		}
		dropped++
		gone = gone || live.proto == UDP
	}
	return dropped, gone, nil
}
