package vector

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

func TestAddSpan(t *testing.T) {
	const top = math.MaxUint64
	for name, c := range map[string]struct{ add, want []Span }{
		"in order":      {[]Span{{1, 1}, {2, 2}, {3, 3}}, []Span{{1, 3}}},
		"a gap":         {[]Span{{1, 2}, {5, 6}}, []Span{{1, 2}, {5, 6}}},
		"closed":        {[]Span{{1, 2}, {5, 6}, {3, 4}}, []Span{{1, 6}}},
		"over several":  {[]Span{{2, 3}, {6, 7}, {10, 11}, {1, 10}}, []Span{{1, 11}}},
		"inside":        {[]Span{{1, 9}, {3, 4}}, []Span{{1, 9}}},
		"before":        {[]Span{{5, 6}, {1, 2}}, []Span{{1, 2}, {5, 6}}},
		"touches below": {[]Span{{5, 6}, {3, 4}}, []Span{{3, 6}}},
		"the very top":  {[]Span{{top, top}, {1, 1}, {top - 1, top - 1}}, []Span{{1, 1}, {top - 1, top}}},
	} {
		v := Vector{}
		for _, s := range c.add {
			if err := v.AddSpan(1, s); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if want := (Vector{1: c.want}); !v.Equal(want) {
			t.Errorf("%s: have %v, want %v", name, v, want)
		}
	}
	for _, s := range []Span{{0, 1}, {3, 2}} {
		if err := (Vector{}).AddSpan(1, s); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v was added: %v", s, err)
		}
	}
}

func TestTooManyGaps(t *testing.T) {
	v := Vector{}
	for i := range uint64(MaxSpans) {
		if _, err := v.Add(1, 2*i+1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.Add(1, 1<<40); !errors.Is(err, ErrTooManyGaps) {
		t.Errorf("one gap too many: %v", err)
	}
	if _, err := v.Add(1, 2); err != nil {
		t.Errorf("closing a gap: %v", err)
	}
}

// TestVectorAgainstMap holds vectors against plain sets of numbers.
func TestVectorAgainstMap(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		random := func() (Vector, map[uint64]bool) {
			v, m := Vector{}, map[uint64]bool{}
			for range r.IntN(12) {
				s := Span{First: 1 + r.Uint64N(30)}
				s.Last = s.First + r.Uint64N(5)
				if err := v.AddSpan(1, s); err != nil {
					t.Fatal(err)
				}
				for n := s.First; n <= s.Last; n++ {
					m[n] = true
				}
			}
			return v, m
		}
		a, inA := random()
		b, inB := random()
		missing := a.Missing(b)
		sum := a.Clone()
		if err := sum.Merge(b); err != nil {
			t.Fatal(err)
		}
		for n := uint64(1); n < 40; n++ {
			if a.Has(1, n) != inA[n] || missing.Has(1, n) != (inB[n] && !inA[n]) || sum.Has(1, n) != (inA[n] || inB[n]) {
				t.Fatalf("seed %d, %d: a %v, b %v, missing %v, sum %v", seed, n, a, b, missing, sum)
			}
		}
		if a.Count() != uint64(len(inA)) {
			t.Fatalf("seed %d: %v counts %d, want %d", seed, a, a.Count(), len(inA))
		}
		again, rest, err := DecodeVector(AppendVector(nil, sum))
		if err != nil || len(rest) != 0 || !again.Equal(sum) {
			t.Fatalf("seed %d: %v came back as %v, %v", seed, sum, again, err)
		}
	}
}

func FuzzVector(f *testing.F) {
	f.Add(AppendVector(nil, Vector{1: {{1, 5}, {9, 9}}, 7: {{3, math.MaxUint64}}}))
	f.Add(AppendVector(nil, Vector{}))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, rest, err := DecodeVector(data)
		if err != nil {
			return
		}
		if got := append(AppendVector(nil, v), rest...); string(got) != string(data) {
			t.Fatalf("%x came back as %x", data, got)
		}
		if m := (Vector{}).Missing(v); !m.Equal(v) {
			t.Fatalf("an empty vector misses %v of %v", m, v)
		}
	})
}
