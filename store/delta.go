package store

import (
	"encoding/binary"
	"fmt"

	"shoal/store/vector"
)

// Dot names one delta.
type Dot = vector.Dot

// Delta is what peers exchange: the state of one key, whole, and the dot it
// brings. Merging a state that also covers other dots does no harm.
type Delta struct {
	Key string
	// Dot is zero where a state travels without one: in snapshots and after a
	// reconciliation of sets.
	Dot    Dot
	Record Record
}

// Void reports that nothing is under the dot any more and nothing is to be
// merged: its write failed, and the sequence number is not used again.
func (d *Delta) Void() bool { return d.Key == "" }

// AppendDelta appends d's wire form: actor (8 bytes), sequence, the key's length
// and the key, then the record to the end; of a void delta the key is empty and
// no record follows.
func AppendDelta(dst []byte, d *Delta) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(d.Dot.Actor))
	dst = binary.AppendUvarint(dst, d.Dot.Sequence)
	dst = appendBytes(dst, d.Key)
	if d.Void() {
		return dst
	}
	return AppendRecord(dst, &d.Record)
}

// DecodeDelta reads a wire form. The result's value aliases b.
func DecodeDelta(b []byte) (Delta, error) {
	r := decoder{rest: b}
	d := Delta{Dot: Dot{Actor: Actor(r.uint64()), Sequence: r.uvarint()}}
	d.Key = string(r.bytes(MaxKeyBytes))
	if r.err != nil {
		return Delta{}, fmt.Errorf("decode delta: %w", r.err)
	}
	if d.Void() {
		if len(r.rest) > 0 || d.Dot.Sequence == 0 {
			return Delta{}, fmt.Errorf("decode delta: %w: void with content", ErrCorruptRecord)
		}
		return d, nil
	}
	if err := checkKey(d.Key); err != nil {
		return Delta{}, fmt.Errorf("decode delta: %w: %w", ErrCorruptRecord, err)
	}
	var err error
	if d.Record, err = DecodeRecord(r.rest); err != nil {
		return Delta{}, fmt.Errorf("decode delta of %s: %w", d.Key, err)
	}
	if len(d.Record.Value) > MaxValueBytes {
		return Delta{}, fmt.Errorf("decode delta of %s: %w: value of %d bytes", d.Key, ErrCorruptRecord, len(d.Record.Value))
	}
	return d, nil
}
