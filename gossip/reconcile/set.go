package reconcile

import (
	"crypto/sha256"
	"encoding/binary"
	"sort"
	"strings"
)

// Entry is one key and a digest of what is held under it. Two peers that hold
// the same have the same Version.
type Entry struct {
	Key     string
	Version uint64
}

// Fingerprint is the sum of the hashes of the entries in a range.
type Fingerprint [2]uint64

func (f Fingerprint) plus(o Fingerprint) Fingerprint { return Fingerprint{f[0] + o[0], f[1] + o[1]} }

func fingerprint(e Entry) Fingerprint {
	var buf [256]byte
	b := binary.BigEndian.AppendUint64(buf[:0], e.Version)
	sum := sha256.Sum256(append(b, e.Key...))
	return Fingerprint{binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])}
}

// Set is a sorted set of entries that answers for any range how many there are
// and their fingerprint, in time logarithmic in its size: a sorted array with
// sums up to each place. It is built for one round of reconciliation and does
// not change: 165,000 entries take some tens of milliseconds and 40 bytes each
// beside their keys, and nothing between rounds.
type Set struct {
	entries []Entry
	// sums[i] is the sum of the first i entries.
	sums []Fingerprint
}

// NewSet sorts entries, which it keeps. Of entries with one key the last
// counts.
func NewSet(entries []Entry) *Set {
	byKey := func(i, j int) bool { return entries[i].Key < entries[j].Key }
	if !sort.SliceIsSorted(entries, byKey) {
		sort.SliceStable(entries, byKey)
	}
	kept := entries[:0]
	for _, e := range entries {
		if n := len(kept); n > 0 && kept[n-1].Key == e.Key {
			kept[n-1] = e
			continue
		}
		kept = append(kept, e)
	}
	s := &Set{entries: kept, sums: make([]Fingerprint, len(kept)+1)}
	for i, e := range kept {
		s.sums[i+1] = s.sums[i].plus(fingerprint(e))
	}
	return s
}

// Len returns the number of entries.
func (s *Set) Len() int { return len(s.entries) }

// Fingerprint returns that of the whole set.
func (s *Set) Fingerprint() Fingerprint { return s.sum(0, len(s.entries)) }

func (s *Set) sum(from, to int) Fingerprint {
	a, b := s.sums[from], s.sums[to]
	return Fingerprint{b[0] - a[0], b[1] - a[1]}
}

// find returns the index of the first entry not before key.
func (s *Set) find(key string) int {
	return sort.Search(len(s.entries), func(i int) bool { return s.entries[i].Key >= key })
}

// between returns the shortest key that is after a and not after b, where a is
// before b: a bound need not be a whole key.
func between(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return strings.Clone(b[:min(n+1, len(b))])
}
