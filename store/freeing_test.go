package store

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
)

// TestDeletionsOnFullDisk: with not a byte left deletions are taken, this peer's
// own and others', and what says of itself that it frees space; nothing else is,
// and when the allocated log is full these are refused too.
func TestDeletionsOnFullDisk(t *testing.T) {
	disk := smallDisk(t)
	o := Options{Dir: filepath.Join(disk, "data"), MinFreeBytes: testMinFree, Tag: 1, Frees: func(_ string, value []byte) bool {
		return bytes.HasPrefix(value, []byte("leaving"))
	}}
	db := openTest(t, o)
	other := openTest(t, Options{Tag: 2})
	for i := range 4 {
		mustUpdate(t, db, Update{Key: fmt.Sprint("/", i), UID: "u", Value: []byte("here")})
	}
	pull(t, other, db)
	release := fill(t, disk, 0)
	refuseWrite(t, db)

	if _, err := db.Update(t.Context(), Update{Key: "/0", Expect: Any, Delete: true}); err != nil {
		t.Errorf("a deletion on a full disk: %v", err)
	}
	mustUpdate(t, other, Update{Key: "/1", Expect: Any, Delete: true})
	mustUpdate(t, other, Update{Key: "/2", Expect: Any, UID: "u", Value: []byte("leaving")})
	mustUpdate(t, other, Update{Key: "/3", Expect: Any, UID: "u", Value: []byte("changed")})
	missing := db.Vector().Missing(other.Vector())
	deltas, _, err := other.Deltas(missing, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	full := (*NoSpaceError)(nil)
	if err := db.Merge(t.Context(), deltas); !errors.As(err, &full) {
		t.Errorf("a merge with what needs space: %v", err)
	}
	is := func(key, want string) {
		t.Helper()
		e, _, err := db.Get(key, Latest)
		if want == "" && !errors.Is(err, ErrNotFound) || want != "" && (err != nil || string(e.Value) != want) {
			t.Errorf("%s is %q, %v; want %q", key, e.Value, err, want)
		}
	}
	is("/0", "")
	is("/1", "")
	is("/2", "leaving")
	is("/3", "here")
	refuseWrite(t, db)

	value := append([]byte("leaving"), bytes.Repeat([]byte("x"), 2000)...)
	taken := 0
	for ; taken < 10_000; taken++ {
		if _, err := db.Update(t.Context(), Update{Key: fmt.Sprint("/many", taken%10), Expect: Any, UID: "u", Value: value}); err != nil {
			if !errors.As(err, &full) {
				t.Errorf("after %d: %v", taken, err)
			}
			break
		}
	}
	if taken < 100 || taken == 10_000 {
		t.Errorf("%d writes that free space are taken on a full disk", taken)
	}
	is("/many0", string(value))
	release()
	pull(t, db, other)
	is("/3", "changed")
	mustUpdate(t, db, Update{Key: "/after", Value: value})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openTest(t, o)
	is("/1", "")
	is("/3", "changed")
	is("/many0", string(value))
}
