package store

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"shoal/store/wire"

	"shoal/store/vector"
)

// Record is what the store keeps under one key, and what peers exchange.
type Record struct {
	// UID names this life of the object; the same key made anew has another.
	UID string
	// CausalLength counts creations and deletions seen: odd is live, even
	// deleted. The longer one wins a merge (Yu and Rostad, "A Low-Cost Set
	// CRDT Based on Causal Lengths", 2020).
	CausalLength uint64
	// Born stamps the creation that began this life; zero in a tombstone. Of
	// two lives under one name the earlier born wins.
	Born Stamp
	// Stamps say when and by whom; most records have one, for the whole object.
	Stamps []Stamp
	// ExpiresMicros, if not zero, is when the record ends by itself, in
	// microseconds since 2024.
	ExpiresMicros uint64
	// Value is the object as the API stores it; empty in a tombstone.
	Value []byte
}

// Stamp is one write: a clock reading and who made it.
type Stamp struct {
	Time  HLC
	Actor Actor
	// Fields is the encoded set of fields the write changed; empty means all.
	Fields []byte
}

// Actor is one incarnation of a peer.
type Actor = vector.Actor

// Before orders stamps: by reading, then by actor so that all peers agree.
func (s Stamp) Before(o Stamp) bool {
	if s.Time != o.Time {
		return s.Time < o.Time
	}
	return s.Actor < o.Actor
}

// Live reports whether the record holds an object rather than a tombstone.
func (r *Record) Live() bool { return r.CausalLength&1 == 1 }

// Stamp returns the latest stamp.
func (r *Record) Stamp() Stamp {
	var latest Stamp
	for _, s := range r.Stamps {
		if latest.Before(s) {
			latest = s
		}
	}
	return latest
}

// Limits of one record.
const (
	// MaxValueBytes is the largest object, etcd's own limit, which clients
	// and operators already live with.
	MaxValueBytes = 3 << 19
	// MaxKeyBytes leaves room for the longest registry path of a custom
	// resource: group and resource 253 each, namespace and name 253 each.
	MaxKeyBytes = 2048
	// maxUIDBytes: a UUID has 36; tests and imports bring others.
	maxUIDBytes = 255
	// maxStamps bounds how finely one record's fields may be attributed.
	maxStamps = 1024
	// maxFieldSetBytes bounds one stamp's field set.
	maxFieldSetBytes = 1 << 18
	// maxTombstoneBytes is what a deleted key may cost.
	maxTombstoneBytes = 64
)

// Wire form, all integers unsigned varints unless said otherwise:
//
//	format byte | flags byte | causal length | uid | [expires] |
//	[born: time (8 bytes), actor (8 bytes)] | stamp count | stamps: time (8 bytes), actor (8 bytes), field set length, field set |
//	value, to the end
//
// uid is 16 raw bytes when flagUUID is set, else a length and the text. born is
// left out where it is the first stamp, and in tombstones.
const recordFormat = 1

const (
	flagUUID    = 1 << 0
	flagExpires = 1 << 1
	flagBorn    = 1 << 2
	knownFlags  = flagUUID | flagExpires | flagBorn
)

// ErrCorruptRecord is wrapped by every decoding failure.
var ErrCorruptRecord = errors.New("corrupt record")

// AppendRecord appends r's wire form to dst.
func AppendRecord(dst []byte, r *Record) []byte {
	uuid, isUUID := parseUUID(r.UID)
	var flags byte
	if isUUID {
		flags |= flagUUID
	}
	if r.ExpiresMicros != 0 {
		flags |= flagExpires
	}
	if r.Live() && !r.bornLast() {
		flags |= flagBorn
	}
	dst = append(dst, recordFormat, flags)
	dst = binary.AppendUvarint(dst, r.CausalLength)
	if isUUID {
		dst = append(dst, uuid[:]...)
	} else {
		dst = appendBytes(dst, r.UID)
	}
	if r.ExpiresMicros != 0 {
		dst = binary.AppendUvarint(dst, r.ExpiresMicros)
	}
	if flags&flagBorn != 0 {
		dst = appendStamp(dst, r.Born)
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.Stamps)))
	for _, s := range r.Stamps {
		dst = appendBytes(appendStamp(dst, s), s.Fields)
	}
	return append(dst, r.Value...)
}

func appendStamp(dst []byte, s Stamp) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Time))
	return binary.BigEndian.AppendUint64(dst, uint64(s.Actor))
}

// bornLast: the creation is also the first stamp, as it is until an update.
func (r *Record) bornLast() bool {
	return len(r.Stamps) > 0 && r.Stamps[0].same(r.Born)
}

// same compares when and who, not what.
func (s Stamp) same(o Stamp) bool { return s.Time == o.Time && s.Actor == o.Actor }

// recordOverhead is how much a record with one whole-object stamp and a UUID
// adds to its value.
const recordOverhead = 2 + binary.MaxVarintLen64 + 16 + binary.MaxVarintLen64 + 16 + 1 + 16 + 1

// DecodeRecord reads a wire form. The result's Value aliases b.
func DecodeRecord(b []byte) (Record, error) {
	d := newDecoder(b)
	if format := d.Byte(); d.Err() == nil && format != recordFormat {
		return Record{}, fmt.Errorf("decode record: %w: format %d, this binary knows %d", ErrCorruptRecord, format, recordFormat)
	}
	flags := d.Byte()
	if d.Err() == nil && flags&^byte(knownFlags) != 0 {
		d.Fail("unknown flags")
	}
	var r Record
	r.CausalLength = d.Uvarint()
	if d.Err() == nil && r.CausalLength == 0 {
		d.Fail("causal length zero")
	}
	if flags&flagUUID != 0 {
		r.UID = formatUUID(d.Take(16))
	} else {
		r.UID = string(d.Bytes(maxUIDBytes))
	}
	if flags&flagExpires != 0 {
		r.ExpiresMicros = d.Uvarint()
		if d.Err() == nil && r.ExpiresMicros == 0 {
			d.Fail("expires flagged but zero")
		}
	}
	if flags&flagBorn != 0 {
		r.Born = Stamp{Time: HLC(d.Uint64()), Actor: Actor(d.Uint64())}
	}
	r.Stamps = d.stamps()
	d.checkBorn(&r, flags)
	if d.Err() != nil {
		return Record{}, fmt.Errorf("decode record: %w", d.Err())
	}
	if len(d.Rest()) > 0 {
		if !r.Live() {
			return Record{}, fmt.Errorf("decode record: %w: tombstone with a value", ErrCorruptRecord)
		}
		r.Value = d.Rest()
	}
	return r, nil
}

// checkBorn fills in what the encoder left out, and refuses what it would have.
func (d *decoder) checkBorn(r *Record, flags byte) {
	switch {
	case d.Err() != nil:
	case flags&flagBorn != 0 && !r.Live():
		d.Fail("tombstone with a birth")
	case flags&flagBorn != 0 && r.bornLast():
		d.Fail("birth given twice")
	case flags&flagBorn == 0 && r.Live() && len(r.Stamps) == 0:
		d.Fail("no birth and no stamp")
	case flags&flagBorn == 0 && r.Live():
		r.Born = Stamp{Time: r.Stamps[0].Time, Actor: r.Stamps[0].Actor}
	}
}

func (d *decoder) stamps() []Stamp {
	n := d.Uvarint()
	if d.Err() == nil && n > maxStamps {
		d.Fail("too many stamps")
	}
	if d.Err() != nil || n == 0 {
		return nil
	}
	// Each stamp takes 17 bytes at least: do not allocate for a count the
	// bytes cannot hold.
	if n > uint64(len(d.Rest())/17) {
		d.Fail("stamps cut short")
		return nil
	}
	stamps := make([]Stamp, n)
	for i := range stamps {
		stamps[i].Time = HLC(d.Uint64())
		stamps[i].Actor = Actor(d.Uint64())
		if fields := d.Bytes(maxFieldSetBytes); len(fields) > 0 {
			stamps[i].Fields = fields
		}
	}
	return stamps
}

// decoder reads the store's own forms.
type decoder struct{ wire.Reader }

func newDecoder(b []byte) decoder { return decoder{wire.NewReader(b, ErrCorruptRecord)} }

func appendBytes[T string | []byte](dst []byte, b T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// parseUUID recognises the canonical lower-case form alone, so that a uid
// always comes back as the text it went in with.
func parseUUID(s string) (id [16]byte, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, false
	}
	var digits [32]byte
	n := 0
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
		case c >= '0' && c <= '9' || c >= 'a' && c <= 'f':
			digits[n] = c
			n++
		default:
			return id, false
		}
	}
	if n != len(digits) {
		return id, false
	}
	_, err := hex.Decode(id[:], digits[:])
	return id, err == nil
}

func formatUUID(b []byte) string {
	if len(b) != 16 {
		return ""
	}
	var out [36]byte
	hex.Encode(out[0:8], b[0:4])
	hex.Encode(out[9:13], b[4:6])
	hex.Encode(out[14:18], b[6:8])
	hex.Encode(out[19:23], b[8:10])
	hex.Encode(out[24:36], b[10:16])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}

// checkKey refuses what could not be a registry path. Keys that do not start
// with a slash are the store's own.
func checkKey(key string) error {
	switch {
	case !strings.HasPrefix(key, "/") || len(key) < 2:
		return fmt.Errorf("check key %q: a key is a registry path and starts with /", key)
	case len(key) > MaxKeyBytes:
		return fmt.Errorf("check key %q...: %d bytes, more than the limit of %d", key[:64], len(key), MaxKeyBytes)
	}
	return nil
}
