package netdp

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// carry takes the entries of an earlier daemon's map over to the map of another
// layout that replaces it: first all of them, while only the old programs run, and
// then, around the moment the programs are replaced, what the old programs wrote
// since. The pass before that moment keeps the one after it short.
type carry struct {
	name     string
	old, new *ebpf.Map
	moves    []move
	stamp    uint32 // where a value says when it was used last
	stampLen uint32 // 0: it does not
	// seen are the values as they were carried last, both by hash: tells what the
	// old programs and what the new ones have changed.
	seen map[uint64]uint64
	seed maphash.Seed

	// firstWins: an entry of the old map says who began, so it replaces what the new
	// programs made of a later packet.
	firstWins bool

	// Of socket storage, in place of all else: one gives every socket what it has in the
	// old map, the other only those that have nothing in the new one.
	allSockets, newSockets *link.Iter
	// alone: only the old programs have run so far.
	alone bool
}

// errNoPlace: an entry of the old map is beyond what the new one takes.
var errNoPlace = errors.New("not all of its entries fit into the new limit")

// carriedTypes are the kinds of maps that entries can be read from one by one.
var carriedTypes = []ebpf.MapType{ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie, ebpf.Array}

// newCarry fails when nothing says how entries of old become ones of the map that
// spec made. It owns old, from then on.
func newCarry(name string, old, fresh *ebpf.Map, spec *ebpf.MapSpec) (*carry, error) {
	if old.Type() != spec.Type || !slices.Contains(carriedTypes, spec.Type) && spec.Type != ebpf.SkStorage {
		return nil, fmt.Errorf("it was of type %s", old.Type())
	}
	was, err := shapeOfMap(old)
	if err != nil {
		return nil, err
	}
	c := &carry{name: name, old: old, new: fresh, seen: map[uint64]uint64{}, seed: maphash.MakeSeed(), firstWins: name == bpf.DatapathMapPolicyConns}
	if c.moves, err = was.movesTo(shapeOfSpec(spec)); err != nil {
		return nil, err
	}
	if spec.Type == ebpf.SkStorage {
		if c.allSockets, err = socketIter(old, fresh, c.moves, true); err != nil {
			return nil, err
		}
		if c.newSockets, err = socketIter(old, fresh, c.moves, false); err != nil {
			c.closeSockets()
			return nil, err
		}
		return c, nil
	}
	for _, field := range []string{"seen_seconds", "seen_ns"} {
		if at, n := fieldAt(spec.Value, field); n > 0 {
			c.stamp, c.stampLen = at, n
		}
	}
	return c, nil
}

func (c *carry) isArray() bool { return c.new.Type() == ebpf.Array }

// fill carries every entry into the new map, which is empty. Of a map that forgets
// (LRU) the newest are kept when not all fit; for others that is errNoPlace.
func (c *carry) fill() error {
	c.alone = true
	if c.allSockets != nil {
		return runIter(c.allSockets)
	}
	var keys, values []byte
	keySize, valueSize := int(c.new.KeySize()), int(c.new.ValueSize())
	n := 0
	err := c.each(func(key, value []byte, hash uint64) error {
		c.seen[hash] = c.sum(value)
		if c.isArray() && isZero(value) {
			return nil // as it is in the new one
		}
		if c.isArray() && binary.NativeEndian.Uint32(key) >= c.new.MaxEntries() {
			return errNoPlace
		}
		keys, values = append(keys, key...), append(values, value...)
		n++
		return nil
	})
	if err != nil {
		return err
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	if limit := int(c.new.MaxEntries()); n > limit && !c.isArray() {
		if c.new.Type() != ebpf.LRUHash {
			return errNoPlace
		}
		slices.SortStableFunc(order, func(a, b int) int {
			return cmp.Compare(c.usedAt(values[a*valueSize:]), c.usedAt(values[b*valueSize:]))
		})
		order = order[n-limit:]
	}
	for part := range slices.Chunk(order, adoptBatch) {
		bufK, bufV := newRawBuffer(c.new.KeySize(), len(part)), newRawBuffer(c.new.ValueSize(), len(part))
		for i, at := range part {
			copy(bufK.at(i), keys[at*keySize:])
			copy(bufV.at(i), values[at*valueSize:])
		}
		if _, err := c.new.BatchUpdate(bufK.all(), bufV.all(), nil); err != nil {
			if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
				return errNoPlace
			}
			return fmt.Errorf("write entries: %w", err)
		}
	}
	return nil
}

// again carries what the old programs wrote since the last time. Where the new
// programs have written as well, theirs stays, unless firstWins.
func (c *carry) again() error {
	if c.alone && c.allSockets != nil {
		return runIter(c.allSockets)
	}
	if c.newSockets != nil {
		return runIter(c.newSockets)
	}
	return c.each(func(key, value []byte, hash uint64) error {
		sum := c.sum(value)
		last, known := c.seen[hash]
		if known && last == sum {
			return nil
		}
		c.seen[hash] = sum
		if c.isArray() && binary.NativeEndian.Uint32(key) >= c.new.MaxEntries() {
			return nil
		}
		flags := ebpf.UpdateNoExist
		if c.firstWins {
			flags = ebpf.UpdateAny
		}
		if known {
			now := make([]byte, len(value))
			if err := c.new.Lookup(key, &now); err != nil || c.sum(now) != last {
				return ignoreMissing("look up entry", err)
			}
			flags = ebpf.UpdateAny
		}
		err := c.new.Update(key, value, flags)
		if errors.Is(err, ebpf.ErrKeyExist) {
			return nil
		}
		return named("write entry", err)
	})
}

// close lets go of the old map.
func (c *carry) close() {
	c.closeSockets()
	_ = c.old.Close()
}

func (c *carry) closeSockets() {
	for _, iter := range []*link.Iter{c.allSockets, c.newSockets} {
		if iter != nil {
			_ = iter.Close()
		}
	}
}

// each calls f with every entry in its new form, and the hash of its key. f may not
// keep them.
func (c *carry) each(f func(key, value []byte, hash uint64) error) error {
	value := make([]byte, c.new.ValueSize())
	return readRaw(c.old, func(n int, keys, values rawBuffer) error {
		for i := range n {
			clear(value)
			convert(c.moves, values.at(i), value)
			if err := f(keys.at(i), value, maphash.Bytes(c.seed, keys.at(i))); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *carry) sum(value []byte) uint64 { return maphash.Bytes(c.seed, value) }

func (c *carry) usedAt(value []byte) uint64 {
	switch c.stampLen {
	case 4:
		return uint64(binary.NativeEndian.Uint32(value[c.stamp:]))
	case 8:
		return binary.NativeEndian.Uint64(value[c.stamp:])
	}
	return 0
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
