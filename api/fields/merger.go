package fields

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"shoal/store"
)

// maxChangedBytes is the largest set of fields worth keeping for one write.
// What changes more of an object has rewritten it.
const maxChangedBytes = 64 << 10

// Merger knows the fields of API objects. It is safe for concurrent use.
type Merger struct{ scheme *runtime.Scheme }

var _ store.FieldMerger = (*Merger)(nil)

// New returns a merger for the types of scheme, and for custom resources. It
// costs nothing until a type is first seen.
func New(scheme *runtime.Scheme) *Merger { return &Merger{scheme: scheme} }

// wholes begin the keys of objects that are written as a whole: they have one
// writer, or none after their creation, and some are written all the time.
var wholes = []string{
	"/registry/events/",
	"/registry/leases/",
	"/registry/masterleases/",
	"/registry/endpointslices/",
	"/registry/services/endpoints/",
	"/registry/controllerrevisions/",
	"/registry/csistoragecapacities/",
	"/registry/ranges/",
	"/registry/ipaddresses/",
}

// worthwhile: the key's object has several writers with fields of their own.
func worthwhile(key string) bool {
	return strings.HasPrefix(key, "/registry/") &&
		!slices.ContainsFunc(wholes, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// Changed returns the fields in which after differs from before; none, and ok,
// when they are the same bytes. Not ok means that the write is to be stamped as
// a whole: the values have no fields this binary knows, or are not worth it.
func (m *Merger) Changed(key string, before, after []byte) (fields []byte, ok bool) {
	if bytes.Equal(before, after) {
		return nil, true
	}
	if !worthwhile(key) {
		return nil, false
	}
	b, err := m.parse(before)
	if err != nil {
		return nil, false
	}
	a, err := m.parse(after)
	if err != nil || a.typ != b.typ {
		return nil, false
	}
	changed := b.diff(a)
	fields = changed.encode()
	// Other bytes with the same fields differ in something unknown.
	if changed.named || changed.deep(0) || len(fields) == 0 || len(fields) > maxChangedBytes {
		return nil, false
	}
	return fields, true
}

// Union returns the fields in a or b. Of a set that cannot be read nothing is
// known, and the other is returned.
func (m *Merger) Union(a, b []byte) []byte {
	x, err := decodeSet(a)
	if err != nil {
		return b
	}
	y, err := decodeSet(b)
	if err != nil {
		return a
	}
	x.union(y)
	return x.encode()
}

// Subtract returns the fields in a without those in b and all below them; nil
// when none is left. Without being able to read both it returns a.
func (m *Merger) Subtract(a, b []byte) []byte {
	x, err := decodeSet(a)
	if err != nil {
		return a
	}
	y, err := decodeSet(b)
	if err != nil {
		return a
	}
	x.subtract(y)
	return x.encode()
}

// IsEmpty reports whether the set has no fields.
func (m *Merger) IsEmpty(fields []byte) bool { return len(fields) == 0 }

// Join makes one object of two records of one life of it. writes are all
// stamps later than both bases, in order, without their fields; base has the
// later base. It returns the value and, for each of writes, the fields it is
// the last writer of.
func (m *Merger) Join(key string, base, other *store.Record, writes []store.Stamp) (value []byte, fields [][]byte, err error) {
	b, err := m.parse(base.Value)
	if err != nil {
		return nil, nil, fmt.Errorf("join %s: %w", key, err)
	}
	o, err := m.parse(other.Value)
	if err != nil {
		return nil, nil, fmt.Errorf("join %s: %w", key, err)
	}
	if b.typ != o.typ {
		return nil, nil, fmt.Errorf("join %s: %s and %s: %w", key, b.gvk, o.gvk, errShape)
	}
	if err := m.lossless(b, base.Value); err != nil {
		return nil, nil, fmt.Errorf("join %s: %w", key, err)
	}
	if err := m.lossless(o, other.Value); err != nil {
		return nil, nil, fmt.Errorf("join %s: %w", key, err)
	}
	bc, err := claimsOf(base, writes)
	if err != nil {
		return nil, nil, fmt.Errorf("join %s: %w", key, err)
	}
	oc, err := claimsOf(other, writes)
	if err != nil {
		return nil, nil, fmt.Errorf("join %s: %w", key, err)
	}
	joined := join(side{bc, b.open()}, side{oc, o.open()}, "")
	if value, err = m.encode(b, joined.at); err != nil {
		return nil, nil, fmt.Errorf("join %s: %w", key, err)
	}
	fields = make([][]byte, len(writes))
	for i, s := range joined.claims.sets(len(writes))[1:] {
		fields[i] = s.encode()
	}
	return value, fields, nil
}

// claimsOf turns the stamps of r that are among writes into claims; a write's
// rank is its place in writes, from 1.
func claimsOf(r *store.Record, writes []store.Stamp) (*claims, error) {
	c := &claims{}
	for rank, w := range writes {
		for _, s := range r.Stamps {
			if s.Time != w.Time || s.Actor != w.Actor || len(s.Fields) == 0 {
				continue
			}
			named, err := decodeSet(s.Fields)
			if err != nil {
				return nil, err
			}
			c.add(named, rank+1)
		}
	}
	return c, nil
}
