package netdp

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

var (
	btfU8  = &btf.Int{Name: "u8", Size: 1, Encoding: btf.Unsigned}
	btfU16 = &btf.Int{Name: "u16", Size: 2, Encoding: btf.Unsigned}
	btfU32 = &btf.Int{Name: "u32", Size: 4, Encoding: btf.Unsigned}
	btfU64 = &btf.Int{Name: "u64", Size: 8, Encoding: btf.Unsigned}
)

// structOf lays fields out one after the other.
func structOf(fields ...any) *btf.Struct {
	s := &btf.Struct{Name: "value"}
	for i := 0; i < len(fields); i += 2 {
		t := fields[i+1].(btf.Type)
		size, err := btf.Sizeof(t)
		if err != nil {
			panic(err)
		}
		s.Members = append(s.Members, btf.Member{Name: fields[i].(string), Type: t, Offset: btf.Bits(8 * s.Size)})
		s.Size += uint32(size)
	}
	return s
}

func arrayOf(n uint32, t btf.Type) *btf.Array { return &btf.Array{Index: btfU32, Type: t, Nelems: n} }

func TestValuesGoOverByFields(t *testing.T) {
	inner := structOf("addr", arrayOf(2, btfU32), "port", btfU16, "pad", btfU16)
	grown := structOf("port", btfU16, "zone", btfU16, "addr", arrayOf(2, btfU32))
	for _, c := range []struct {
		name     string
		from, to btf.Type
		want     []move
		fails    bool
	}{
		{name: "the same", from: inner, to: inner, want: []move{{0, 0, 12}}},
		{name: "longer at its end", from: inner, to: structOf("addr", arrayOf(2, btfU32), "port", btfU16, "pad", btfU16, "more", btfU64), want: []move{{0, 0, 12}}},
		{name: "in another order, with one more and one less", from: inner, to: grown, want: []move{{8, 0, 2}, {0, 4, 8}}},
		{name: "a wider number", from: structOf("count", btfU32), to: structOf("count", btfU64), want: []move{{0, 0, 4}}},
		{name: "a plain number", from: btfU32, to: btfU32, want: []move{{0, 0, 4}}},
		{name: "more elements", from: arrayOf(2, inner), to: arrayOf(3, grown),
			want: []move{{8, 0, 2}, {0, 4, 8}, {20, 12, 2}, {12, 16, 8}}},
		{name: "a narrower number", from: structOf("count", btfU64), to: structOf("count", btfU32), fails: true},
		{name: "a field of another kind", from: structOf("a", btfU32), to: structOf("a", arrayOf(4, btfU8)), fails: true},
		{name: "no types any more", from: btfU32, fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, to := shape{keySize: 4, key: btfU32, value: c.from}, shape{keySize: 4, key: btfU32, value: c.to}
			got, err := from.movesTo(to)
			if (err != nil) != c.fails || !slices.Equal(got, c.want) {
				t.Errorf("%v, %v; want %v, fails %t", got, err, c.want, c.fails)
			}
		})
	}
	word := shape{keySize: 4, valueSize: 4, value: btfU32}
	named, other := word, word
	named.key, other.key = structOf("id", btfU32), structOf("number", btfU32)
	if _, err := named.movesTo(other); err == nil {
		t.Error("a map with other keys is carried over")
	}
	if moves, err := (shape{keySize: 4, valueSize: 4}).movesTo(word); err != nil || !slices.Equal(moves, []move{{0, 0, 4}}) {
		t.Errorf("a map made without types: %v, %v", moves, err)
	}
}

// carryBetween makes both maps and fills the first one.
func carryBetween(t *testing.T, kind ebpf.MapType, from, to btf.Type, fromMax, toMax uint32, fill int, value func(i int) any) *carry {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make kernel maps")
	}
	mapOf := func(v btf.Type, limit uint32) (*ebpf.MapSpec, *ebpf.Map) {
		size, err := btf.Sizeof(v)
		if err != nil {
			t.Fatal(err)
		}
		spec := &ebpf.MapSpec{Name: "carry", Type: kind, KeySize: 4, ValueSize: uint32(size), MaxEntries: limit, Key: btfU32, Value: v}
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close() })
		return spec, m
	}
	_, old := mapOf(from, fromMax)
	spec, fresh := mapOf(to, toMax)
	for i := range fill {
		if err := old.Put(uint32(i), value(i)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := newCarry("carry", old, fresh, spec)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type carried struct{ A, B, SeenSeconds uint32 }

var (
	carriedType = structOf("a", btfU32, "b", btfU32, "seen_seconds", btfU32)
	fewerType   = structOf("seen_seconds", btfU32, "a", btfU32)
)

func TestCarryOver(t *testing.T) {
	for _, kind := range []ebpf.MapType{ebpf.Hash, ebpf.LRUHash, ebpf.Array} {
		t.Run(kind.String(), func(t *testing.T) {
			const n = 3 * adoptBatch / 2
			c := carryBetween(t, kind, fewerType, carriedType, 2*n, 4*n, n, func(i int) any { return [2]uint32{uint32(i), uint32(i + 1)} })
			check := func(key uint32, want carried) {
				t.Helper()
				var got carried
				if err := c.new.Lookup(key, &got); err != nil || got != want {
					t.Errorf("entry %d is %+v, %v; want %+v", key, got, err, want)
				}
			}
			if err := c.fill(); err != nil {
				t.Fatal(err)
			}
			for i := range uint32(n) {
				check(i, carried{A: i + 1, SeenSeconds: i})
			}
			// The old programs write to three entries, the new ones to two of these
			// and one of their own.
			for _, key := range []uint32{1, 2, n + 1} {
				if err := c.old.Put(key, [2]uint32{7, 7}); err != nil {
					t.Fatal(err)
				}
			}
			for _, key := range []uint32{2, n + 2} {
				if err := c.new.Put(key, carried{9, 9, 9}); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := c.again(); err != nil {
					t.Fatal(err)
				}
				check(1, carried{A: 7, SeenSeconds: 7})
				check(2, carried{9, 9, 9})
				check(n+1, carried{A: 7, SeenSeconds: 7})
				check(n+2, carried{9, 9, 9})
			}
		})
	}
}

// Who began a connection is known by the older entry.
func TestFirstEntryWins(t *testing.T) {
	c := carryBetween(t, ebpf.LRUHash, carriedType, carriedType, 64, 64, 1, func(int) any { return carried{A: 1} })
	c.firstWins = true
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	for _, key := range []uint32{0, 1} {
		if err := errors.Join(c.old.Put(key, carried{A: 2}), c.new.Put(key, carried{A: 3})); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.again(); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[uint32]uint32{0: 3, 1: 2} { // of the first one both knew already
		var got carried
		if err := c.new.Lookup(key, &got); err != nil || got.A != want {
			t.Errorf("entry %d is %+v, %v; want %d", key, got, err, want)
		}
	}
}

// A smaller map has the newest entries if it may forget, and else says that it has
// no room.
func TestCarryIntoLess(t *testing.T) {
	const n, room = 2048, 512
	stamped := func(i int) any { return carried{SeenSeconds: uint32(i) * 7919 % n} }
	c := carryBetween(t, ebpf.LRUHash, carriedType, carriedType, 2*n, room, n, stamped)
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	kept, oldest := 0, uint32(n)
	err := readMap(c.new, func(_ uint32, v carried) { kept++; oldest = min(oldest, v.SeenSeconds) })
	if err != nil || kept < room/2 || oldest < n-room {
		t.Errorf("%d of %d entries, the oldest of second %d; want nearly %d, none before second %d; %v", kept, n, oldest, room, n-room, err)
	}
	for _, kind := range []ebpf.MapType{ebpf.Hash, ebpf.Array} {
		c := carryBetween(t, kind, carriedType, carriedType, n, room, n, func(i int) any { return carried{A: 1, B: uint32(i)} })
		if err := c.fill(); !errors.Is(err, errNoPlace) {
			t.Errorf("%s: %v, want %v", kind, err, errNoPlace)
		}
	}
	empty := carryBetween(t, ebpf.Array, carriedType, carriedType, n, room, room, func(i int) any { return carried{A: 1} })
	if err := empty.fill(); err != nil {
		t.Errorf("an array whose end is unused: %v", err)
	}
}

// The kernel tells the types of every map that is carried over: without them, a later
// version could only guess.
func TestKernelKnowsTypesOfMaps(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	for name, m := range d.maps {
		if isPassing(d.specs[name]) {
			continue
		}
		got, err := shapeOfMap(m)
		if err != nil || got.key == nil || got.value == nil {
			t.Errorf("map %s: key %v, value %v, %v", name, got.key, got.value, err)
			continue
		}
		want := shapeOfSpec(d.specs[name])
		if moves, err := got.movesTo(want); err != nil || len(moves) != 1 || typeForm(got.value) != typeForm(want.value) {
			t.Errorf("map %s into itself: %v, %v", name, moves, err)
		}
	}
}
