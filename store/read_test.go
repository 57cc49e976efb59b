package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

func listKeys(t testing.TB, db *DB, r Range, at Version) []string {
	t.Helper()
	entries, _, err := db.List(r, at)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, e.Key)
	}
	return keys
}

func TestReadsAtVersions(t *testing.T) {
	db := openTest(t, Options{})
	a := mustUpdate(t, db, Update{Key: "/x/a", Value: []byte("1")})
	b := mustUpdate(t, db, Update{Key: "/x/b", Value: []byte("1")})
	a2 := mustUpdate(t, db, Update{Key: "/x/a", Expect: Any, Value: []byte("2")})
	gone := mustUpdate(t, db, Update{Key: "/x/b", Expect: Any, Delete: true})
	mustUpdate(t, db, Update{Key: "/xy", Value: []byte("not under the prefix")})

	for _, c := range []struct {
		at    Version
		value string
		keys  []string
	}{
		{a.Version, "1", []string{"/x/a"}},
		{b.Version, "1", []string{"/x/a", "/x/b"}},
		{a2.Version, "2", []string{"/x/a", "/x/b"}},
		{gone.Version, "2", []string{"/x/a"}},
		{Latest, "2", []string{"/x/a"}},
	} {
		e, _, err := db.Get("/x/a", c.at)
		if err != nil || string(e.Value) != c.value {
			t.Errorf("at %s: value %q (%v), want %q", c.at, e.Value, err, c.value)
		}
		if keys := listKeys(t, db, Range{Prefix: "/x/"}, c.at); !slices.Equal(keys, c.keys) {
			t.Errorf("at %s: keys %v, want %v", c.at, keys, c.keys)
		}
		if n, err := db.Count(Range{Prefix: "/x/"}, c.at); err != nil || n != int64(len(c.keys)) {
			t.Errorf("at %s: counted %d (%v), want %d", c.at, n, err, len(c.keys))
		}
	}
	if _, _, err := db.Get("/x/b", Latest); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted record: error %v, want ErrNotFound", err)
	}
	if _, _, err := db.Get("/x/a", db.Version()+1); !errors.Is(err, ErrFuture) {
		t.Errorf("read of the future: error %v, want ErrFuture", err)
	}
	if err := db.Compact(gone.Version); err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.Get("/x/a", a2.Version); !errors.Is(err, ErrExpired) {
		t.Errorf("read of history let go: error %v, want ErrExpired", err)
	}
	if _, _, err := db.Get("/x/a", gone.Version); err != nil {
		t.Errorf("read at the horizon: %v", err)
	}
}

// TestPagesOfOneVersion reads pages while records come and go.
func TestPagesOfOneVersion(t *testing.T) {
	db := openTest(t, Options{})
	var want []string
	for i := range 10 {
		key := fmt.Sprintf("/p/%02d", i)
		mustUpdate(t, db, Update{Key: key})
		want = append(want, key)
	}
	at := db.Version()
	var got []string
	for r := (Range{Prefix: "/p/"}); ; {
		page := listKeys(t, db, r, at)
		if len(page) == 0 {
			break
		}
		page = page[:min(3, len(page))]
		got = append(got, page...)
		r.Start = page[len(page)-1] + "\x00"
		mustUpdate(t, db, Update{Key: fmt.Sprintf("/p/%02d", len(got)), Expect: Any, Delete: len(got) < 10})
		mustUpdate(t, db, Update{Key: fmt.Sprintf("/p/new%02d", len(got))})
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages gave %v, want %v", got, want)
	}
}

func TestMeasure(t *testing.T) {
	db := openTest(t, Options{})
	mustUpdate(t, db, Update{Key: "/m/a", Value: make([]byte, 100), UID: testUUID})
	mustUpdate(t, db, Update{Key: "/m/b", Value: make([]byte, 2_000_00)})
	mustUpdate(t, db, Update{Key: "/m/c", Value: make([]byte, 1_000_000)})
	mustUpdate(t, db, Update{Key: "/m/c", Expect: Any, Delete: true})
	count, bytes, err := db.Measure(Range{Prefix: "/m/"}, Latest)
	if err != nil || count != 2 || bytes != 200_100 {
		t.Errorf("measured %d records of %d bytes (%v), want 2 of 200100", count, bytes, err)
	}
}
