package store

import (
	"bytes"
	"fmt"
	"slices"
)

// FieldMerger knows the schema of what is stored.
type FieldMerger interface {
	// Changed returns the encoded set of fields in which after differs from
	// before, what was added and removed among them; none, and ok, when the
	// two are equal. Not ok: the object's schema is unknown or it is not worth
	// it, and the write is stamped as a whole.
	Changed(key string, before, after []byte) (fields []byte, ok bool)
	// Union and Subtract keep the sets of a record's stamps disjoint. A set
	// without fields is nil.
	Union(a, b []byte) []byte
	Subtract(a, b []byte) []byte
	// Join makes one value of two records of one life, of which base has the
	// later base stamp. writes are the other stamps of both that are later
	// than it, in order and without fields; for each of them Join returns the
	// fields it is the last writer of. An error means that the values cannot
	// be joined by field.
	Join(key string, base, other *Record, writes []Stamp) (value []byte, fields [][]byte, err error)
}

// mergeFields merges two live records of one life, field by field: each field
// is taken from the side whose stamp for it is later, where the stamp without
// fields, the base, stands for all fields that no later stamp names. Like
// Merge it is pure, commutative, associative and idempotent.
//
// The error, if any, says why the record of the later write was kept whole
// instead; the result holds all the same, and a peer must not stop on it.
func mergeFields(m FieldMerger, key string, a, b *Record) (Record, error) {
	stampsA, stampsB := canonicalStamps(a.Stamps), canonicalStamps(b.Stamps)
	aInB, bInA := covers(stampsB, stampsA), covers(stampsA, stampsB)
	switch {
	case aInB && bInA && !bytes.Equal(a.Value, b.Value):
		// Equal stamps are equal states; should it be otherwise, peers must
		// still agree.
		if bytes.Compare(a.Value, b.Value) > 0 {
			return withStamps(a, a.Value, stampsA), nil
		}
		return withStamps(b, b.Value, stampsB), nil
	case aInB:
		return withStamps(b, b.Value, stampsB), nil
	case bInA:
		return withStamps(a, a.Value, stampsA), nil
	}
	// The usual case of two peers in touch: one side was written over the other.
	overA, overB := supersedes(m, stampsB, stampsA), supersedes(m, stampsA, stampsB)
	switch {
	case overA && !overB:
		return withStamps(b, b.Value, stampsB), nil
	case overB && !overA:
		return withStamps(a, a.Value, stampsA), nil
	}
	joined, err := joinRecords(m, key, withStamps(a, a.Value, stampsA), withStamps(b, b.Value, stampsB))
	if err != nil {
		return laterWhole(a, b), err
	}
	return joined, nil
}

// joinRecords joins what neither side of has seen all of. Stamps are canonical.
func joinRecords(m FieldMerger, key string, base, other Record) (Record, error) {
	if baseOlder(&base, &other) {
		base, other = other, base
	}
	start := baseStamp(base.Stamps)
	var writes []Stamp
	for _, s := range slices.Concat(base.Stamps, other.Stamps) {
		if len(s.Fields) > 0 && start.Before(s) {
			writes = append(writes, Stamp{Time: s.Time, Actor: s.Actor})
		}
	}
	slices.SortFunc(writes, compareStamps)
	writes = slices.CompactFunc(writes, Stamp.same)
	value, fields, err := m.Join(key, &base, &other, writes)
	switch {
	case err != nil:
		return Record{}, fmt.Errorf("merge fields: %w", err)
	case len(fields) != len(writes):
		return Record{}, fmt.Errorf("merge fields of %s: %d sets for %d stamps", key, len(fields), len(writes))
	case len(value) > MaxValueBytes:
		return Record{}, fmt.Errorf("merge fields of %s: both together take %d bytes, more than the limit of %d", key, len(value), MaxValueBytes)
	}
	stamps := []Stamp{start}
	for i, w := range writes {
		if w.Fields = fields[i]; len(w.Fields) > 0 {
			stamps = append(stamps, w)
		}
	}
	// Where one side turns out to have all that counts, it is kept to the byte.
	switch {
	case slices.EqualFunc(stamps, base.Stamps, sameWrite):
		value = base.Value
	case slices.EqualFunc(stamps, other.Stamps, sameWrite):
		value = other.Value
	}
	if compareStamps(base.Stamp(), other.Stamp()) < 0 {
		base.ExpiresMicros = other.ExpiresMicros
	}
	return withStamps(&base, value, boundStamps(stamps)), nil
}

func withStamps(r *Record, value []byte, stamps []Stamp) Record {
	merged := *r
	merged.Value, merged.Stamps = value, stamps
	return merged
}

// baseOlder orders by base stamp and, so that all peers choose alike, by value.
func baseOlder(a, b *Record) bool {
	if c := compareStamps(baseStamp(a.Stamps), baseStamp(b.Stamps)); c != 0 {
		return c < 0
	}
	return bytes.Compare(a.Value, b.Value) < 0
}

// baseStamp returns the stamp without fields; zero if there is none.
func baseStamp(stamps []Stamp) Stamp {
	var base Stamp
	for _, s := range stamps {
		if len(s.Fields) == 0 && !s.Before(base) {
			base = s
		}
	}
	return base
}

// canonicalStamps returns stamps as a merge leaves them: the base first, then
// those later than it in order. It does not change stamps.
func canonicalStamps(stamps []Stamp) []Stamp {
	base := baseStamp(stamps)
	canonical := []Stamp{base}
	for _, s := range stamps {
		if len(s.Fields) > 0 && base.Before(s) {
			canonical = append(canonical, s)
		}
	}
	slices.SortStableFunc(canonical, compareStamps)
	return canonical
}

// covers: all of the writes that some is made of are in all.
func covers(all, some []Stamp) bool {
	base := baseStamp(all)
	for _, s := range some {
		if base.Before(s) && !slices.ContainsFunc(all, func(o Stamp) bool { return sameWrite(s, o) }) {
			return false
		}
	}
	return true
}

// supersedes: the writes of some that are not in all were overwritten by later
// ones of the same actor, which therefore saw them. Joining the two would give
// all again, for ten times the work. Later writes of another actor may not have
// seen them, and then a join may keep something of both (a generation, the place
// of an item).
func supersedes(m FieldMerger, all, some []Stamp) bool {
	base := baseStamp(all)
	for _, s := range some {
		if !base.Before(s) || slices.ContainsFunc(all, func(o Stamp) bool { return sameWrite(s, o) }) {
			continue
		}
		left := s.Fields
		for _, o := range all {
			if len(left) > 0 && len(o.Fields) > 0 && o.Actor == s.Actor && !o.Before(s) {
				left = without(m, left, o.Fields)
			}
		}
		if len(s.Fields) == 0 || len(left) > 0 {
			return false
		}
	}
	return true
}

// without spares decoding where one write names what another did.
func without(m FieldMerger, fields, named []byte) []byte {
	if bytes.Equal(fields, named) {
		return nil
	}
	return m.Subtract(fields, named)
}

// sameWrite compares also what was written.
func sameWrite(a, b Stamp) bool { return a.same(b) && bytes.Equal(a.Fields, b.Fields) }

// boundStamps makes the oldest writes part of the base until a record may hold
// the rest. A field named by one of those then counts as written by the last
// of them, as all the others do that no later stamp names.
func boundStamps(stamps []Stamp) []Stamp {
	first := max(0, len(stamps)-maxStamps)
	for i, s := range stamps {
		if len(s.Fields) > maxFieldSetBytes {
			first = max(first, i)
		}
	}
	if first == 0 {
		return stamps
	}
	return append([]Stamp{{Time: stamps[first].Time, Actor: stamps[first].Actor}}, stamps[first+1:]...)
}

// laterWhole is the rule where fields are not known: the later write's record.
func laterWhole(a, b *Record) Record {
	if compareRecords(a, b) < 0 {
		a = b
	}
	return *a
}

// stampFields returns the stamps of a record after a local write over before:
// the write is the latest of what it changed, and no other stamp names that
// any more. stamp must be later than all of before's.
func stampFields(m FieldMerger, key string, before *Record, after []byte, stamp Stamp) []Stamp {
	fields, ok := m.Changed(key, before.Value, after)
	if ok && len(fields) == 0 {
		return before.Stamps
	}
	if !ok || len(fields) > maxFieldSetBytes {
		return []Stamp{{Time: stamp.Time, Actor: stamp.Actor}}
	}
	var stamps []Stamp
	for _, s := range canonicalStamps(before.Stamps) {
		if len(s.Fields) > 0 {
			if s.Fields = m.Subtract(s.Fields, fields); len(s.Fields) == 0 {
				continue
			}
		}
		stamps = append(stamps, s)
	}
	stamp.Fields = fields
	return boundStamps(append(stamps, stamp))
}

// collapseStamps makes the writes that every member has part of the base, up to
// the first that is not stable. That tells no peer anything new: for a member
// that holds a write, it is the same whether a field counts as written by it
// or by a later one that all hold as well.
func collapseStamps(stamps []Stamp, stable func(Stamp) bool) []Stamp {
	stamps = canonicalStamps(stamps)
	last := 0
	for last+1 < len(stamps) && stable(stamps[last+1]) {
		last++
	}
	if last == 0 {
		return stamps
	}
	return append([]Stamp{{Time: stamps[last].Time, Actor: stamps[last].Actor}}, stamps[last+1:]...)
}
