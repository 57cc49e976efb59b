package netdp

import (
	"fmt"
	"math/bits"
)

// extents hands out runs of slots in powers of two (a buddy allocator): a run
// that comes back joins its neighbour again, so the map cannot fragment into
// pieces too small for anybody.
type extents struct {
	size uint32 // of the map, a power of two
	free [32]map[uint32]struct{}
}

func newExtents(size uint32) *extents {
	e := &extents{size: size}
	for i := range e.free {
		e.free[i] = map[uint32]struct{}{}
	}
	e.free[orderOf(size)][0] = struct{}{}
	return e
}

// orderOf is the smallest order whose run holds n slots.
func orderOf(n uint32) int {
	if n <= 1 {
		return 0
	}
	return bits.Len32(n - 1)
}

// alloc returns the first slot of a run of 1<<order.
func (e *extents) alloc(order int) (uint32, error) {
	for o := order; o <= orderOf(e.size); o++ {
		for base := range e.free[o] {
			delete(e.free[o], base)
			e.giveBackTail(base, o, order)
			return base, nil
		}
	}
	return 0, fmt.Errorf("take %d slots of %d: %w", uint32(1)<<order, e.size, ErrFull)
}

// giveBackTail keeps the first 1<<order slots of a run of 1<<from.
func (e *extents) giveBackTail(base uint32, from, order int) {
	for o := from - 1; o >= order; o-- {
		e.free[o][base+1<<o] = struct{}{}
	}
}

// release returns a run, joined with its free neighbours.
func (e *extents) release(base uint32, order int) {
	for order < orderOf(e.size) {
		buddy := base ^ 1<<order
		if _, ok := e.free[order][buddy]; !ok {
			break
		}
		delete(e.free[order], buddy)
		base &^= 1 << order
		order++
	}
	e.free[order][base] = struct{}{}
}

// take removes a given run from the free ones: an earlier daemon used it.
func (e *extents) take(base uint32, order int) error {
	if base&(1<<order-1) != 0 {
		return fmt.Errorf("take %d slots from %d on: no run begins there", uint64(1)<<order, base)
	}
	for o := order; o <= orderOf(e.size); o++ {
		start := base &^ (1<<o - 1)
		if _, ok := e.free[o][start]; !ok {
			continue
		}
		delete(e.free[o], start)
		for o > order {
			o--
			half := start + 1<<o
			if base >= half {
				e.free[o][start] = struct{}{}
				start = half
			} else {
				e.free[o][half] = struct{}{}
			}
		}
		return nil
	}
	return fmt.Errorf("take %d slots of %d from %d on: they are in use, or not in the map", uint64(1)<<order, e.size, base)
}

// ids hands out numbers from 1 to limit. A number that comes back waits behind
// all others, so that a reader that still holds it does not meet its successor.
type ids struct {
	next, limit uint32
	returned    []uint32
	taken       map[uint32]struct{} // above next, used by an earlier daemon
}

func newIDs(limit uint32) *ids {
	return &ids{next: 1, limit: limit, taken: map[uint32]struct{}{}}
}

func (s *ids) alloc() (uint32, error) {
	for s.next < s.limit {
		id := s.next
		s.next++
		if _, used := s.taken[id]; used {
			delete(s.taken, id)
			continue
		}
		return id, nil
	}
	if len(s.returned) == 0 {
		return 0, fmt.Errorf("take one of %d entries: %w", s.limit-1, ErrFull)
	}
	id := s.returned[0]
	s.returned = s.returned[1:]
	return id, nil
}

func (s *ids) release(id uint32) {
	if id >= s.next { // adopted and never reached
		delete(s.taken, id)
		return
	}
	s.returned = append(s.returned, id)
}

// take marks a number as used by an earlier daemon. Call it before alloc.
func (s *ids) take(id uint32) { s.taken[id] = struct{}{} }
