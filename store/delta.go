package store

import (
	"encoding/binary"
	"fmt"

	"shoal/store/vector"
)

// Dot names one delta.
type Dot = vector.Dot

// Delta is what peers exchange: the state of one key, whole, and the dots it
// brings. Merging a state that covers other dots, too, does no harm.
type Delta struct {
	Key string
	// Dot is zero where a state travels without one: in snapshots and after a
	// reconciliation of sets.
	Dot Dot
	// Also are other dots of this key that the state covers.
	Also   []Dot
	Record Record
}

// maxAlso bounds the dots of one delta; a hot key with more of them travels
// more than once.
const maxAlso = 256

// Void reports that nothing is under the dot any more and nothing is to be
// merged: its write failed, and the sequence number is not used again.
func (d *Delta) Void() bool { return d.Key == "" }

// Dots returns all dots the delta brings.
func (d *Delta) Dots() []Dot {
	if d.Dot == (Dot{}) {
		return d.Also
	}
	return append([]Dot{d.Dot}, d.Also...)
}

// AppendDelta appends d's wire form: a dot, a count of other dots and these,
// the key's length and the key, then the record to the end. A dot is its actor
// (8 bytes) and its sequence. Of a void delta the key is empty and no record
// follows.
func AppendDelta(dst []byte, d *Delta) []byte {
	dst = appendDot(dst, d.Dot)
	dst = binary.AppendUvarint(dst, uint64(len(d.Also)))
	for _, also := range d.Also {
		dst = appendDot(dst, also)
	}
	dst = appendBytes(dst, d.Key)
	if d.Void() {
		return dst
	}
	return AppendRecord(dst, &d.Record)
}

func appendDot(dst []byte, d Dot) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(d.Actor))
	return binary.AppendUvarint(dst, d.Sequence)
}

func (d *decoder) dot() Dot { return Dot{Actor: Actor(d.Uint64()), Sequence: d.Uvarint()} }

// DecodeDelta reads a wire form. The result's value aliases b.
func DecodeDelta(b []byte) (Delta, error) {
	r := newDecoder(b)
	d := Delta{Dot: r.dot()}
	also := r.Uvarint()
	if r.Err() == nil && also > maxAlso {
		r.Fail("too many dots")
	}
	for range also {
		if r.Err() != nil {
			break
		}
		d.Also = append(d.Also, r.dot())
	}
	d.Key = string(r.Bytes(MaxKeyBytes))
	if r.Err() != nil {
		return Delta{}, fmt.Errorf("decode delta: %w", r.Err())
	}
	if d.Void() {
		if len(r.Rest()) > 0 || d.Dot.Sequence == 0 {
			return Delta{}, fmt.Errorf("decode delta: %w: void with content", ErrCorruptRecord)
		}
		return d, nil
	}
	if err := checkKey(d.Key); err != nil {
		return Delta{}, fmt.Errorf("decode delta: %w: %w", ErrCorruptRecord, err)
	}
	var err error
	if d.Record, err = DecodeRecord(r.Rest()); err != nil {
		return Delta{}, fmt.Errorf("decode delta of %s: %w", d.Key, err)
	}
	if len(d.Record.Value) > MaxValueBytes {
		return Delta{}, fmt.Errorf("decode delta of %s: %w: value of %d bytes", d.Key, ErrCorruptRecord, len(d.Record.Value))
	}
	return d, nil
}
