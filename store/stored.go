package store

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// On disk a record is preceded by its digest, so that fingerprints and
// reconciliation read a few bytes of it:
//
//	storedFormat | digest (8 bytes) | wire form
//
// A value that begins with recordFormat is of a version that had no digests.
const (
	storedFormat = 2
	digestBytes  = 1 + 8
)

// Digest says whether two peers hold the same under a key: 64 bits over the
// key, causal length, uid, birth, latest stamp and value. How stamps are
// divided into fields is left out, because peers collapse them at different
// times.
type Digest uint64

// KeyDigest is a key and the digest of what is under it.
type KeyDigest struct {
	Key    string
	Digest Digest
}

// DigestOf computes the digest of r under key.
func DigestOf(key string, r *Record) Digest {
	var head [64]byte
	b := binary.BigEndian.AppendUint64(head[:0], r.CausalLength)
	b = appendStamp(b, r.Born)
	b = appendStamp(b, r.Stamp())
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = binary.AppendUvarint(b, uint64(len(r.UID)))
	var h xxhash.Digest
	h.Reset()
	_, _ = h.Write(b)
	_, _ = h.WriteString(key)
	_, _ = h.WriteString(r.UID)
	_, _ = h.Write(r.Value)
	return Digest(h.Sum64())
}

// appendStored appends the form on disk and returns where the value begins.
func appendStored(dst []byte, key string, r *Record) ([]byte, Digest) {
	digest := DigestOf(key, r)
	dst = append(dst, storedFormat)
	dst = binary.BigEndian.AppendUint64(dst, uint64(digest))
	return AppendRecord(dst, r), digest
}

// decodeStored reads the form on disk; the result's Value aliases b.
func decodeStored(b []byte) (Record, error) {
	if len(b) > 0 && b[0] == storedFormat {
		if len(b) < digestBytes {
			return Record{}, fmt.Errorf("decode record: %w: cut short", ErrCorruptRecord)
		}
		b = b[digestBytes:]
	}
	return DecodeRecord(b)
}

// storedDigest reads the digest alone where it is there.
func storedDigest(key string, b []byte) (Digest, error) {
	if len(b) >= digestBytes && b[0] == storedFormat {
		return Digest(binary.BigEndian.Uint64(b[1:])), nil
	}
	r, err := decodeStored(b)
	if err != nil {
		return 0, err
	}
	return DigestOf(key, &r), nil
}

// entry decodes what was found.
func (s *Stored) entry() (Entry, error) {
	r, err := decodeStored(s.Value)
	if err != nil {
		return Entry{}, fmt.Errorf("read %s: %w", s.Key, err)
	}
	return Entry{Key: s.Key, Version: s.Version, Record: r}, nil
}
