package fields

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// parseSet reads paths for tests: elements with "/" between.
func parseSet(paths ...string) *set {
	s := &set{}
	for _, path := range paths {
		one := &set{}
		at := one
		steps := strings.Split(path, "/")
		for _, step := range steps[:len(steps)-1] {
			at = at.kid(step)
		}
		at.name(steps[len(steps)-1])
		s.union(one)
	}
	return s
}

func TestSetAlgebra(t *testing.T) {
	for _, c := range []struct {
		name                   string
		a, b, union, remainder []string
	}{
		{"apart", []string{"a/b"}, []string{"a/c"}, []string{"a/b", "a/c"}, []string{"a/b"}},
		{"equal", []string{"a/b"}, []string{"a/b"}, []string{"a/b"}, nil},
		{"what is above takes what is below", []string{"a/b/c", "d"}, []string{"a"}, []string{"a", "d"}, []string{"d"}},
		{"what is below leaves what is above", []string{"a"}, []string{"a/b"}, []string{"a"}, []string{"a"}},
		{"nothing from something", nil, []string{"a"}, []string{"a"}, nil},
		{"something from nothing", []string{"a"}, nil, []string{"a"}, []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := New(nil)
			a, b := parseSet(c.a...).encode(), parseSet(c.b...).encode()
			if got, want := m.Union(a, b), parseSet(c.union...).encode(); !bytes.Equal(got, want) {
				t.Errorf("union is %q, want %q", got, want)
			}
			if got, want := m.Subtract(a, b), parseSet(c.remainder...).encode(); !bytes.Equal(got, want) {
				t.Errorf("difference is %q, want %q", got, want)
			}
		})
	}
}

func genSet() *rapid.Generator[*set] {
	path := rapid.StringMatching(`[abc](/[abc]){0,3}`)
	return rapid.Custom(func(t *rapid.T) *set { return parseSet(rapid.SliceOfN(path, 0, 6).Draw(t, "paths")...) })
}

func TestSetsKeepTheirForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genSet().Draw(t, "a").encode(), genSet().Draw(t, "b").encode()
		m := New(nil)
		if x, y := m.Union(a, b), m.Union(b, a); !bytes.Equal(x, y) {
			t.Fatalf("union is %q one way and %q the other", x, y)
		}
		for _, s := range [][]byte{a, m.Union(a, b), m.Subtract(a, b), m.Subtract(m.Union(a, b), b)} {
			again, err := decodeSet(s)
			if err != nil || !bytes.Equal(again.encode(), s) {
				t.Fatalf("%q becomes %q, %v", s, again.encode(), err)
			}
		}
		if left := m.Subtract(b, m.Union(a, b)); len(left) > 0 {
			t.Fatalf("b without a and b leaves %q", left)
		}
	})
}

func FuzzSet(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(parseSet("fspec/freplicas", "fmetadata/flabels/fa", "fspec/kx/@").encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSet(b)
		if err != nil {
			return
		}
		if again := s.encode(); !bytes.Equal(again, b) {
			t.Fatalf("%q becomes %q", b, again)
		}
	})
}
