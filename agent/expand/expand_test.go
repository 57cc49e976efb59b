package expand

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

func from(values map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := values[name]; return v, ok }
}

// FuzzString: what fits is what Kubernetes makes of it, and what does not is
// refused at exactly its length.
func FuzzString(f *testing.F) {
	for _, s := range []string{"", "plain", "$(A)", "$$(A)", "$(A", "$(B)$(NOBODY)", "x$", "$(A)$(A)$(B) $x \xff$\xff", "$((A))"} {
		f.Add(s, "value", "$(A)")
	}
	f.Fuzz(func(t *testing.T, s, a, b string) {
		values := map[string]string{"A": a, "B": b}
		want := expansion.Expand(s, expansion.MappingFuncFor(values))
		if got, err := String(s, len(want), from(values)); err != nil || got != want {
			t.Errorf("%q is %q, %v; want %q", s, got, err, want)
		}
		if long := (*TooLongError)(nil); len(want) > 0 {
			if _, err := String(s, len(want)-1, from(values)); !errors.As(err, &long) || long.Bytes != len(want) {
				t.Errorf("%q of %d bytes at a limit of one less: %v", s, len(want), err)
			}
		}
	})
}

// TestBombs: what would not fit into any memory is refused before it is made.
func TestBombs(t *testing.T) {
	t.Run("one string", func(t *testing.T) {
		values := map[string]string{"A": strings.Repeat("a", 100_000)}
		bomb := strings.Repeat("$(A)", 200_000) // 20 GB
		_, err := String(bomb, StringMax(), from(values))
		if long := (*TooLongError)(nil); !errors.As(err, &long) || long.Bytes != 20_000_000_000 {
			t.Errorf("got %v", err)
		}
		if a := testing.AllocsPerRun(1, func() { _, _ = String(bomb, StringMax(), from(values)) }); a > 1000 {
			t.Errorf("%v allocations to refuse it", a)
		}
	})
	t.Run("many strings", func(t *testing.T) {
		var size Size
		values := map[string]string{"A": strings.Repeat("a", 100_000)}
		for i := range 200_000 {
			if _, err := size.Expand("$(A)", from(values)); err != nil {
				if many := (*TooManyError)(nil); i != TotalMax/100_009 || !errors.As(err, &many) {
					t.Errorf("string %d: %v", i, err)
				}
				return
			}
		}
		t.Error("20 GB are taken")
	})
	t.Run("each of the one before", func(t *testing.T) {
		values := map[string]string{"A0": "0123456789abcdef"}
		for i := 1; ; i++ {
			v, err := String(strings.Repeat(fmt.Sprintf("$(A%d)", i-1), 8), StringMax(), from(values))
			if err != nil {
				if i != 5 { // 16 bytes times 8 to the 5th are 512 KiB
					t.Errorf("A%d: %v", i, err)
				}
				return
			}
			values[fmt.Sprintf("A%d", i)] = v
		}
	})
}

// TestSize: a variable that is set again takes the place of the one before.
func TestSize(t *testing.T) {
	var size Size
	for range 1000 {
		if err := size.Add(100_000); err != nil {
			t.Fatal(err)
		}
		size.Remove(100_000)
	}
	if err := size.Add(StringMax()); err != nil {
		t.Errorf("the longest string: %v", err)
	}
	if err := size.Add(StringMax() + 1); err == nil {
		t.Error("a string that is too long is taken")
	}
}
