package slices

import (
	"hash/fnv"
	"iter"
	"math/bits"
)

// Count is how many slices there are.
const Count = 256

// Of is the slice of a key, which is a pod's uid or a namespace's name: the
// eight highest bits of its 64-bit FNV-1a.
func Of(key string) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return int(h.Sum64() >> 56)
}

// Set is some of the slices. The zero Set is empty.
type Set [Count / 64]uint64

// All has every slice.
func All() Set { return Set{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)} }

// Has tells whether slice i is in the set.
func (s Set) Has(i int) bool { return s[i/64]>>(i%64)&1 == 1 }

// With is the set and slice i.
func (s Set) With(i int) Set { s[i/64] |= 1 << (i % 64); return s }

// Without is the set but for slice i.
func (s Set) Without(i int) Set { s[i/64] &^= 1 << (i % 64); return s }

// Minus is what of the set is not in other.
func (s Set) Minus(other Set) Set {
	for i := range s {
		s[i] &^= other[i]
	}
	return s
}

// Len is how many slices the set has.
func (s Set) Len() int {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

// Each gives the slices in their order.
func (s Set) Each() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range Count {
			if s.Has(i) && !yield(i) {
				return
			}
		}
	}
}
