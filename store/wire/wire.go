// Package wire reads the binary forms in which records, vectors and messages are
// stored and travel: unsigned varints, big-endian words, and bytes with their
// length.
//
// What always holds: after the first failure a Reader reads nothing more and
// returns zeros; a number is accepted in its shortest form alone, so that equal
// things have equal bytes; nothing is allocated for what the bytes do not hold.
//
// It is used by every package that decodes what came from a disk or a peer.
package wire

import (
	"encoding/binary"
	"fmt"
)

// Reader takes values off the front of bytes and remembers the first failure.
type Reader struct {
	rest []byte
	err  error
	// corrupt is what failures wrap.
	corrupt error
}

// NewReader reads b; its failures wrap corrupt.
func NewReader(b []byte, corrupt error) Reader { return Reader{rest: b, corrupt: corrupt} }

// Fail ends the reading, saying why; the first reason counts.
func (r *Reader) Fail(why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", r.corrupt, why)
	}
	r.rest = nil
}

// Err returns the first failure.
func (r *Reader) Err() error { return r.err }

// Rest returns what was not read.
func (r *Reader) Rest() []byte { return r.rest }

// Skip goes on at rest, the end of what was left, after somebody else has read.
func (r *Reader) Skip(rest []byte) { r.rest = rest }

// Take returns the next n bytes. They share memory with what is read.
func (r *Reader) Take(n uint64) []byte {
	if r.err != nil || n > uint64(len(r.rest)) {
		r.Fail("cut short")
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Byte reads one.
func (r *Reader) Byte() byte {
	if b := r.Take(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint64 reads 8 bytes, big-endian.
func (r *Reader) Uint64() uint64 {
	if b := r.Take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Uvarint reads a varint in its shortest form.
func (r *Reader) Uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.Fail("bad integer")
		return 0
	}
	if n > 1 && r.rest[n-1] == 0 {
		r.Fail("padded integer")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// Count reads a varint that is at most most.
func (r *Reader) Count(most uint64) uint64 {
	n := r.Uvarint()
	if n > most {
		r.Fail("over a limit")
		return 0
	}
	return n
}

// Bytes reads a length of at most most and so many bytes.
func (r *Reader) Bytes(most uint64) []byte { return r.Take(r.Count(most)) }
