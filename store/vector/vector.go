package vector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"

	"shoal/store/wire"
)

// Actor is one incarnation of a peer: random, drawn when its directory is first
// opened and kept there. A peer that lost its disk is a new actor.
type Actor uint64

// Dot names one delta: which actor made it, and its how many-th it is.
type Dot struct {
	Actor    Actor
	Sequence uint64
}

// Span is the sequence numbers First to Last, both included. Sequences begin
// at 1.
type Span struct{ First, Last uint64 }

// Vector says which sequence numbers of each actor are held. The spans of an
// actor are sorted and neither overlap nor touch. The zero Vector is empty and
// must be made with make or NewVector before Add.
type Vector map[Actor][]Span

// Limits of a vector.
const (
	// MaxActors is a full cell of 1,024 hosts, each of which lost its disk
	// fifteen times while its old actors were still remembered.
	MaxActors = 1 << 14
	// MaxSpans of one actor: a gap is closed or given up by a reconciliation
	// of sets long before there are so many.
	MaxSpans = 1 << 12
	// MaxVectorSpans bounds the whole of one vector on the wire.
	MaxVectorSpans = 1 << 16
)

// ErrCorrupt is wrapped by every decoding failure.
var ErrCorrupt = errors.New("corrupt version vector")

// ErrTooManyGaps says that a vector cannot take another gap; the caller must
// reconcile by sets and then Close.
var ErrTooManyGaps = errors.New("too many gaps in a version vector")

// Has reports whether the actor's delta is held.
func (v Vector) Has(a Actor, sequence uint64) bool {
	spans := v[a]
	i := sort.Search(len(spans), func(i int) bool { return spans[i].Last >= sequence })
	return i < len(spans) && spans[i].First <= sequence
}

// Add notes one delta. It reports false if it was held already.
func (v Vector) Add(a Actor, sequence uint64) (bool, error) {
	if sequence == 0 || v.Has(a, sequence) {
		return false, nil
	}
	return true, v.AddSpan(a, Span{sequence, sequence})
}

// AddSpan notes all deltas of a span.
func (v Vector) AddSpan(a Actor, s Span) error {
	if s.First == 0 || s.First > s.Last {
		return fmt.Errorf("add span %d to %d: %w", s.First, s.Last, ErrCorrupt)
	}
	spans := v[a]
	// from is the first span that s overlaps or touches, to the one after the
	// last. The subtraction avoids overflow at the largest sequence.
	from := sort.Search(len(spans), func(i int) bool { return spans[i].Last >= s.First-1 })
	to := from
	for to < len(spans) && (spans[to].First <= s.Last || spans[to].First-1 == s.Last) {
		s.First = min(s.First, spans[to].First)
		s.Last = max(s.Last, spans[to].Last)
		to++
	}
	if from == to && len(spans) >= MaxSpans {
		return fmt.Errorf("add span to actor %x: %w", uint64(a), ErrTooManyGaps)
	}
	if len(spans) == 0 && len(v) >= MaxActors {
		return fmt.Errorf("add actor %x: more than %d actors", uint64(a), MaxActors)
	}
	v[a] = slices.Replace(spans, from, to, s)
	return nil
}

// Merge adds all that o has.
func (v Vector) Merge(o Vector) error {
	for a, spans := range o {
		for _, s := range spans {
			if err := v.AddSpan(a, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// Missing returns what o has and v lacks.
func (v Vector) Missing(o Vector) Vector {
	missing := Vector{}
	for a, theirs := range o {
		if spans := subtract(theirs, v[a]); len(spans) > 0 {
			missing[a] = spans
		}
	}
	return missing
}

// subtract returns the parts of these spans that are not in those.
func subtract(these, those []Span) []Span {
	var left []Span
	i := 0
	for _, s := range these {
		for i < len(those) && those[i].Last < s.First {
			i++
		}
		first, done := s.First, false
		for j := i; j < len(those) && those[j].First <= s.Last; j++ {
			if those[j].First > first {
				left = append(left, Span{first, those[j].First - 1})
			}
			if those[j].Last >= s.Last {
				done = true
				break
			}
			first = those[j].Last + 1
		}
		if !done {
			left = append(left, Span{first, s.Last})
		}
	}
	return left
}

// Intersect returns the spans of an actor that lie within s, cut to it.
func (v Vector) Intersect(a Actor, s Span) []Span {
	var within []Span
	for _, have := range v[a] {
		if first, last := max(have.First, s.First), min(have.Last, s.Last); first <= last {
			within = append(within, Span{first, last})
		}
	}
	return within
}

// Count returns how many deltas the vector has.
func (v Vector) Count() uint64 {
	var n uint64
	for _, spans := range v {
		for _, s := range spans {
			n += s.Last - s.First + 1
		}
	}
	return n
}

// Equal reports whether both have the same deltas.
func (v Vector) Equal(o Vector) bool { return maps.EqualFunc(v, o, slices.Equal[[]Span]) }

// Clone returns a copy that shares nothing.
func (v Vector) Clone() Vector {
	c := make(Vector, len(v))
	for a, spans := range v {
		c[a] = slices.Clone(spans)
	}
	return c
}

// AppendVector appends v's wire form: a count of actors, then for each, sorted,
// the actor (8 bytes), a count of spans, and for each the distance from the end
// of the one before and the length less one, all varints.
func AppendVector(dst []byte, v Vector) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(v)))
	for _, a := range slices.Sorted(maps.Keys(v)) {
		dst = binary.BigEndian.AppendUint64(dst, uint64(a))
		dst = binary.AppendUvarint(dst, uint64(len(v[a])))
		end := uint64(0)
		for _, s := range v[a] {
			dst = binary.AppendUvarint(dst, s.First-end)
			dst = binary.AppendUvarint(dst, s.Last-s.First)
			end = s.Last
		}
	}
	return dst
}

// DecodeVector reads what AppendVector wrote and returns what follows it.
func DecodeVector(data []byte) (Vector, []byte, error) {
	d := wire.NewReader(data, ErrCorrupt)
	v, last, total := Vector{}, Actor(0), uint64(0)
	for n := range d.Count(MaxActors) {
		a := Actor(d.Uint64())
		spans := d.Count(MaxSpans)
		if total += spans; d.Err() != nil || n > 0 && a <= last || spans == 0 || total > MaxVectorSpans {
			return nil, nil, fmt.Errorf("decode vector: actor %d: %w", n, ErrCorrupt)
		}
		last = a
		v[a] = readSpans(&d, spans)
	}
	if d.Err() != nil {
		return nil, nil, fmt.Errorf("decode vector: %w", d.Err())
	}
	return v, d.Rest(), nil
}

func readSpans(d *wire.Reader, count uint64) []Span {
	var spans []Span
	end := uint64(0)
	for i := range count {
		first := end + d.Uvarint()
		last := first + d.Uvarint()
		// Spans that touch, wrap around or start at 0 have another form.
		if d.Err() != nil || first <= end || i > 0 && first == end+1 || last < first {
			d.Fail("spans out of order")
			return nil
		}
		spans = append(spans, Span{first, last})
		end = last
	}
	return spans
}
