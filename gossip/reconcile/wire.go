package reconcile

import (
	"encoding/binary"
	"fmt"

	"shoal/store/wire"
)

// AppendMessage appends m's wire form: a count, then for each range its end (as
// a key), its mode, and the fingerprint (16 bytes) or the entries. A key is the
// length of what it shares with the key before it in the message, then the
// length of the rest and the rest; a version is 8 bytes.
func AppendMessage(dst []byte, m Message) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(m.Ranges)))
	last := ""
	for _, r := range m.Ranges {
		dst = append(dst, byte(r.Mode))
		switch r.Mode {
		case Compare:
			dst = binary.BigEndian.AppendUint64(dst, r.Fingerprint[0])
			dst = binary.BigEndian.AppendUint64(dst, r.Fingerprint[1])
		case List, Answer:
			dst = binary.AppendUvarint(dst, uint64(len(r.Entries)))
			for _, e := range r.Entries {
				dst = appendKey(dst, last, e.Key)
				dst = binary.BigEndian.AppendUint64(dst, e.Version)
				last = e.Key
			}
		}
		dst = appendKey(dst, last, r.End)
		if r.End != "" {
			last = r.End
		}
	}
	return dst
}

func appendKey(dst []byte, last, key string) []byte {
	n := 0
	for n < len(last) && n < len(key) && last[n] == key[n] {
		n++
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	dst = binary.AppendUvarint(dst, uint64(len(key)-n))
	return append(dst, key[n:]...)
}

// DecodeMessage reads what AppendMessage wrote. Keys must rise from range to
// range and from entry to entry.
func DecodeMessage(data []byte) (Message, error) {
	d := messageDecoder{Reader: wire.NewReader(data, ErrCorrupt)}
	count := d.Count(MaxRanges)
	var m Message
	for i := range count {
		r := d.readRange()
		if last := i == count-1; d.Err() != nil || last != (r.End == "") {
			return Message{}, fmt.Errorf("decode range %d: %w", i, ErrCorrupt)
		}
		m.Ranges = append(m.Ranges, r)
	}
	if d.Err() != nil || count == 0 || len(d.Rest()) != 0 {
		return Message{}, fmt.Errorf("decode message: %w", ErrCorrupt)
	}
	return m, nil
}

type messageDecoder struct {
	wire.Reader
	last    string
	begun   bool // last is an entry, which the next key must be after
	entries uint64
}

func (d *messageDecoder) readRange() Range {
	mode := d.Take(1)
	if d.Err() != nil {
		return Range{}
	}
	r := Range{Mode: Mode(mode[0])}
	switch r.Mode {
	case Skip:
	case Compare:
		r.Fingerprint = Fingerprint{d.Uint64(), d.Uint64()}
	case List, Answer:
		r.Entries = d.readEntries()
	default:
		d.Fail("out of order or over a limit")
	}
	r.End = d.readKey()
	if r.End == "" {
		return r
	}
	if r.End <= d.last {
		d.Fail("out of order or over a limit")
	}
	d.last, d.begun = r.End, false
	return r
}

func (d *messageDecoder) readEntries() []Entry {
	count := d.Count(MaxEntries)
	if d.entries += count; d.entries > MaxEntries {
		d.Fail("out of order or over a limit")
	}
	var entries []Entry
	for range count {
		e := Entry{Key: d.readKey(), Version: d.Uint64()}
		if d.Err() != nil || e.Key < d.last || d.begun && e.Key == d.last {
			d.Fail("out of order or over a limit")
			return nil
		}
		entries = append(entries, e)
		d.last, d.begun = e.Key, true
	}
	return entries
}

func (d *messageDecoder) readKey() string {
	shared := d.Count(uint64(len(d.last)))
	rest := d.Bytes(MaxKeyBytes)
	if d.Err() != nil || shared+uint64(len(rest)) > MaxKeyBytes {
		d.Fail("out of order or over a limit")
		return ""
	}
	if len(rest) > 0 && shared < uint64(len(d.last)) && rest[0] == d.last[shared] {
		d.Fail("shares more than it says")
	}
	return d.last[:shared] + string(rest)
}
