package fields_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"shoal/api/fields"
	"shoal/store"
)

// TestJoinSurvivesDamage damages real objects and sets of fields at random:
// what comes of it is a value or an error, and the sets of a value can be read.
func TestJoinSurvivesDamage(t *testing.T) {
	m := fields.New(clientscheme.Scheme)
	all := pairs(t)
	joined := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 5))
		p := all[r.IntN(len(all))]
		set, _ := m.Changed(p.key, p.before, p.after)
		before, after, set := damage(r, p.before), damage(r, p.after), damage(r, set)
		m.Changed(p.key, before, after)
		base := store.Record{Value: before}
		other := store.Record{Value: after, Stamps: []store.Stamp{{Time: 3, Fields: set}}}
		_, sets, err := m.Join(p.key, &base, &other, []store.Stamp{{Time: 3}})
		if err != nil {
			continue
		}
		joined++
		if again := m.Union(sets[0], nil); !bytes.Equal(again, sets[0]) {
			t.Fatalf("seed %d: set %q becomes %q", seed, sets[0], again)
		}
	}
	if joined == 0 {
		t.Error("all was damaged beyond joining")
	}
}

// damage changes, cuts or doubles a few bytes, or leaves all as it is.
func damage(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range r.IntN(3) {
		if len(b) == 0 {
			break
		}
		at := r.IntN(len(b))
		switch r.IntN(4) {
		case 0:
			b[at] = byte(r.IntN(256))
		case 1:
			b[at] ^= 1 << r.IntN(8)
		case 2:
			b = b[:at]
		case 3:
			b = append(b[:at], append(bytes.Clone(b[at:min(len(b), at+8)]), b[at:]...)...)
		}
	}
	return b
}
