package store

import (
	"bytes"
	"cmp"
)

// Merge decides what peers keep of two records under one key. It is pure and,
// being the greater of the two in one total order, commutative, associative
// and idempotent: peers that have seen the same records hold the same bytes,
// in whatever order they came.
//
//   - The longer causal length wins: a delete beats the updates it did not
//     see, a creation beats the delete it saw.
//   - Of two objects made independently under one name, the one born earlier
//     wins. The other is returned as displaced, for somebody to tell its owner.
//   - Of two states of one object the later stamp wins. Taking over single
//     fields needs the object's schema and is done before this, by who has it.
//   - Of two tombstones the later stamp wins.
func Merge(a, b Record) (kept Record, displaced *Record) {
	if compareRecords(&a, &b) < 0 {
		a, b = b, a
	}
	if a.CausalLength == b.CausalLength && a.Live() && a.UID != b.UID {
		return a, &b
	}
	return a, nil
}

// compareRecords is positive when a is to be kept over b.
func compareRecords(a, b *Record) int {
	if c := cmp.Compare(a.CausalLength, b.CausalLength); c != 0 {
		return c
	}
	if a.Live() {
		if c := compareStamps(b.Born, a.Born); c != 0 {
			return c
		}
		if c := cmp.Compare(b.UID, a.UID); c != 0 {
			return c
		}
	}
	if c := compareStamps(a.Stamp(), b.Stamp()); c != 0 {
		return c
	}
	// One actor never gives out a stamp twice. Should it have happened all the
	// same, peers must still agree.
	return bytes.Compare(AppendRecord(nil, a), AppendRecord(nil, b))
}

func compareStamps(a, b Stamp) int {
	return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Actor, b.Actor))
}
