package store

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// genRecord draws records of one key as a few peers could have made them: a
// life has one birth, and few values of everything make ties likely.
func genRecord() *rapid.Generator[Record] {
	return rapid.Custom(func(t *rapid.T) Record {
		length := rapid.Uint64Range(1, 4).Draw(t, "causal length")
		life := rapid.IntRange(0, 2).Draw(t, "life")
		r := Record{
			CausalLength: length,
			UID:          []string{"a", "b", testUUID}[life],
			Stamps:       []Stamp{genStamp(t)},
		}
		if r.Live() {
			r.Born = Stamp{Time: HLC(life / 2), Actor: Actor(life)}
			r.Value = []byte(rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "value"))
		}
		return r
	})
}

func genStamp(t *rapid.T) Stamp {
	return Stamp{
		Time:  HLC(rapid.Uint64Range(1, 3).Draw(t, "time")),
		Actor: Actor(rapid.Uint64Range(1, 3).Draw(t, "actor")),
	}
}

func mergeAll(records ...Record) Record {
	merged := records[0]
	for _, r := range records[1:] {
		merged, _ = Merge(merged, r)
	}
	return merged
}

func sameBytes(t *rapid.T, law string, a, b Record) {
	if x, y := AppendRecord(nil, &a), AppendRecord(nil, &b); !bytes.Equal(x, y) {
		t.Fatalf("%s: %+v differs from %+v", law, a, b)
	}
}

func TestMergeLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := genRecord().Draw(t, "a"), genRecord().Draw(t, "b"), genRecord().Draw(t, "c")
		sameBytes(t, "idempotent", mergeAll(a, a), a)
		sameBytes(t, "commutative", mergeAll(a, b), mergeAll(b, a))
		sameBytes(t, "associative", mergeAll(mergeAll(a, b), c), mergeAll(a, mergeAll(b, c)))
	})
}

func TestMergeConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := rapid.SliceOfN(genRecord(), 1, 12).Draw(t, "records")
		shuffled := rapid.Permutation(records).Draw(t, "other order")
		sameBytes(t, "order of arrival", mergeAll(records...), mergeAll(shuffled...))
	})
}

// TestMergeNeverResurrects: once a delete is merged, only a longer causal
// length, that is a creation that saw it, brings an object back.
func TestMergeNeverResurrects(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genRecord().Draw(t, "a"), genRecord().Draw(t, "b")
		merged, _ := Merge(a, b)
		for _, r := range []Record{a, b} {
			if !r.Live() && merged.Live() && merged.CausalLength <= r.CausalLength {
				t.Fatalf("merging %+v and %+v brought back %+v", a, b, merged)
			}
		}
	})
}

func TestMergeRules(t *testing.T) {
	at := func(n HLC) []Stamp { return []Stamp{{Time: n, Actor: 1}} }
	live := func(uid string, length uint64, born, stamp HLC) Record {
		return Record{UID: uid, CausalLength: length, Born: Stamp{Time: born, Actor: 1}, Stamps: at(stamp), Value: []byte(uid)}
	}
	for name, c := range map[string]struct {
		a, b, want Record
		displaced  string
	}{
		"delete beats later update": {
			a: live("a", 1, 1, 9), b: Record{UID: "a", CausalLength: 2, Stamps: at(2)},
			want: Record{UID: "a", CausalLength: 2, Stamps: at(2)},
		},
		"re-creation beats the delete it saw": {
			a: Record{UID: "a", CausalLength: 2, Stamps: at(9)}, b: live("b", 3, 3, 3),
			want: live("b", 3, 3, 3),
		},
		"later update wins": {
			a: live("a", 1, 1, 5), b: live("a", 1, 1, 4), want: live("a", 1, 1, 5),
		},
		"earlier born wins, however late the other was updated": {
			a: live("a", 1, 1, 2), b: live("b", 1, 2, 9), want: live("a", 1, 1, 2), displaced: "b",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, pair := range [][2]Record{{c.a, c.b}, {c.b, c.a}} {
				kept, displaced := Merge(pair[0], pair[1])
				if !bytes.Equal(AppendRecord(nil, &kept), AppendRecord(nil, &c.want)) {
					t.Errorf("kept %+v, want %+v", kept, c.want)
				}
				var uid string
				if displaced != nil {
					uid = displaced.UID
				}
				if uid != c.displaced {
					t.Errorf("displaced uid %q, want %q", uid, c.displaced)
				}
			}
		})
	}
}
