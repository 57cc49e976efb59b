package store

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
)

const testUUID = "0f8fad5b-d9cb-469f-a165-70867728950e"

func TestRecordRoundTrip(t *testing.T) {
	first := Stamp{Time: 7, Actor: 9}
	for name, r := range map[string]Record{
		"new":          {UID: testUUID, CausalLength: 1, Born: first, Stamps: []Stamp{first}, Value: []byte("v")},
		"updated":      {UID: testUUID, CausalLength: 1, Born: first, Stamps: []Stamp{{Time: 8, Actor: 9}}, Value: []byte("v")},
		"text uid":     {UID: "uid-a", CausalLength: 3, Born: first, Stamps: []Stamp{first}, Value: []byte("v")},
		"upper UUID":   {UID: strings.ToUpper(testUUID), CausalLength: 1, Born: first, Stamps: []Stamp{first}},
		"no uid":       {CausalLength: 1, Born: first, Stamps: []Stamp{first}, Value: []byte("v")},
		"empty value":  {UID: testUUID, CausalLength: 1, Born: first, Stamps: []Stamp{first}},
		"expiring":     {UID: testUUID, CausalLength: 1, Born: first, Stamps: []Stamp{first}, ExpiresMicros: 5, Value: []byte("v")},
		"field stamps": {UID: testUUID, CausalLength: 1, Born: first, Stamps: []Stamp{first, {Time: 9, Actor: 1, Fields: []byte("f:spec")}}, Value: []byte("v")},
		"tombstone":    {UID: testUUID, CausalLength: 2, Stamps: []Stamp{first}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeRecord(AppendRecord(nil, &r))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, r) {
				t.Errorf("decoded %+v, want %+v", got, r)
			}
		})
	}
}

func TestTombstoneSize(t *testing.T) {
	for _, uid := range []string{"", testUUID, "sixteen-bytes-id", strings.Repeat("x", maxUIDBytes)} {
		r := Record{
			UID:          tombstoneUID(uid),
			CausalLength: math.MaxUint64 - 1,
			Stamps:       []Stamp{{Time: math.MaxUint64, Actor: math.MaxUint64}},
		}
		if size := len(AppendRecord(nil, &r)); size > maxTombstoneBytes {
			t.Errorf("tombstone of uid %q takes %d bytes, more than %d", uid, size, maxTombstoneBytes)
		}
	}
}

func TestRecordOverhead(t *testing.T) {
	r := Record{
		UID:           testUUID,
		CausalLength:  math.MaxUint64,
		Born:          Stamp{Time: 1, Actor: 1},
		Stamps:        []Stamp{{Time: math.MaxUint64, Actor: math.MaxUint64}},
		ExpiresMicros: math.MaxUint64,
	}
	if size := len(AppendRecord(nil, &r)); size != recordOverhead {
		t.Errorf("the largest plain record adds %d bytes, recordOverhead says %d", size, recordOverhead)
	}
}

func TestDecodeRecordRefuses(t *testing.T) {
	good := AppendRecord(nil, &Record{UID: testUUID, CausalLength: 1, Born: Stamp{Time: 1}, Stamps: []Stamp{{Time: 2}}, Value: []byte("value")})
	header := len(good) - len("value")
	for n := range header {
		if _, err := DecodeRecord(good[:n]); !errors.Is(err, ErrCorruptRecord) {
			t.Errorf("the first %d bytes of a record: error %v, want ErrCorruptRecord", n, err)
		}
	}
	for name, b := range map[string][]byte{
		"other format":       append([]byte{99}, good[1:]...),
		"unknown flag":       append([]byte{recordFormat, 0x80}, good[2:]...),
		"length zero":        {recordFormat, 0, 0, 0, 0},
		"padded integer":     {recordFormat, 0, 0x81, 0, 0, 0},
		"live without stamp": {recordFormat, 0, 1, 0, 0},
		"many stamps":        {recordFormat, 0, 1, 0, 0xff, 0x07},
		"tombstone's value":  append(AppendRecord(nil, &Record{CausalLength: 2}), 'v'),
	} {
		if _, err := DecodeRecord(b); !errors.Is(err, ErrCorruptRecord) {
			t.Errorf("%s: error %v, want ErrCorruptRecord", name, err)
		}
	}
}

// FuzzDecodeRecord: whatever decodes has one form, so that equal records are
// equal bytes on all peers.
func FuzzDecodeRecord(f *testing.F) {
	f.Add(AppendRecord(nil, &Record{UID: testUUID, CausalLength: 1, Born: Stamp{Time: 1}, Stamps: []Stamp{{Time: 2}}, Value: []byte("v")}))
	f.Add(AppendRecord(nil, &Record{UID: "a", CausalLength: 1, Born: Stamp{Time: 1}, Stamps: []Stamp{{Time: 1, Fields: []byte("f")}}, ExpiresMicros: 3}))
	f.Add(AppendRecord(nil, &Record{UID: testUUID, CausalLength: 2, Stamps: []Stamp{{Time: 2}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRecord(b)
		if err != nil {
			if !errors.Is(err, ErrCorruptRecord) {
				t.Fatalf("error %v is not ErrCorruptRecord", err)
			}
			return
		}
		if again := AppendRecord(nil, &r); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", b, r, again)
		}
	})
}
