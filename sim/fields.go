package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"shoal/store"
)

// An object of the simulator is a few fields, each named by a letter and
// holding the number of the operation that wrote it last: letter and number (8
// bytes), in order of letters.
type object map[byte]uint64

const fieldBytes = 9

func (o object) encode() []byte {
	var b []byte
	for f := byte('a'); f <= 'z'; f++ {
		if op, ok := o[f]; ok {
			b = binary.BigEndian.AppendUint64(append(b, f), op)
		}
	}
	return b
}

func decodeObject(b []byte) (object, error) {
	if len(b)%fieldBytes != 0 {
		return nil, fmt.Errorf("decode object: %d bytes", len(b))
	}
	o := make(object)
	for ; len(b) > 0; b = b[fieldBytes:] {
		o[b[0]] = binary.BigEndian.Uint64(b[1:])
	}
	return o, nil
}

// toyFields is a store.FieldMerger for such objects. A set of fields is its
// letters, sorted.
type toyFields struct{}

// Changed implements store.FieldMerger.
func (toyFields) Changed(_ string, before, after []byte) ([]byte, bool) {
	a, errA := decodeObject(before)
	b, errB := decodeObject(after)
	if errA != nil || errB != nil {
		return nil, false
	}
	var set []byte
	for f := byte('a'); f <= 'z'; f++ {
		wasOp, was := a[f]
		isOp, is := b[f]
		if was != is || wasOp != isOp {
			set = append(set, f)
		}
	}
	return set, true
}

// Union implements store.FieldMerger.
func (toyFields) Union(a, b []byte) []byte {
	u := slices.Concat(a, b)
	slices.Sort(u)
	return slices.Compact(u)
}

// Subtract implements store.FieldMerger.
func (toyFields) Subtract(a, b []byte) []byte {
	var left []byte
	for _, f := range a {
		if !bytes.Contains(b, []byte{f}) {
			left = append(left, f)
		}
	}
	return left
}

// Merge implements store.FieldMerger.
func (toyFields) Merge(_ string, base, from, take []byte) ([]byte, error) {
	a, errA := decodeObject(base)
	b, errB := decodeObject(from)
	if errA != nil || errB != nil {
		return nil, fmt.Errorf("merge objects: %w", cmpErr(errA, errB))
	}
	for _, f := range take {
		if op, ok := b[f]; ok {
			a[f] = op
		} else {
			delete(a, f)
		}
	}
	return a.encode(), nil
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Join implements store.FieldMerger: each field from the record whose stamp for
// it is later.
func (toyFields) Join(_ string, base, other *store.Record, writes []store.Stamp) ([]byte, [][]byte, error) {
	a, errA := decodeObject(base.Value)
	b, errB := decodeObject(other.Value)
	if errA != nil || errB != nil {
		return nil, nil, fmt.Errorf("join objects: %w", cmpErr(errA, errB))
	}
	rank := func(r *store.Record, f byte) int {
		rank := 0
		for _, s := range r.Stamps {
			if bytes.Contains(s.Fields, []byte{f}) {
				for i, w := range writes {
					if w.Time == s.Time && w.Actor == s.Actor {
						rank = max(rank, i+1)
					}
				}
			}
		}
		return rank
	}
	joined, fields := object{}, make([][]byte, len(writes))
	for f := byte('a'); f <= 'z'; f++ {
		inA, inB := rank(base, f), rank(other, f)
		from, r := a, inA
		if inB > inA {
			from, r = b, inB
		}
		if op, ok := from[f]; ok {
			joined[f] = op
		}
		if r > 0 {
			fields[r-1] = append(fields[r-1], f)
		}
	}
	return joined.encode(), fields, nil
}
