package store

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestExpiry(t *testing.T) {
	clock := newFakeClock()
	o := Options{Dir: t.TempDir(), Clock: clock}
	db := openTest(t, o)
	short := mustUpdate(t, db, Update{Key: "/e/short", Value: []byte("x"), TTL: time.Minute})
	mustUpdate(t, db, Update{Key: "/e/long", TTL: time.Hour})
	mustUpdate(t, db, Update{Key: "/e/kept", TTL: time.Minute})
	mustUpdate(t, db, Update{Key: "/e/kept", Expect: Any})
	w := watch(t, db, "/e/", db.Version())
	clock.advance(2 * time.Minute)
	e := takeN(t, w, 1)
	if got, want := describe(e[0]), `deleted /e/short "" was "x"`; got != want {
		t.Errorf("event %s, want %s", got, want)
	}
	if e[0].Version <= short.Version {
		t.Errorf("it ended at version %s, was written at %s", e[0].Version, short.Version)
	}
	if s := db.Stats(); s.Records != 2 || s.Tombstones != 1 {
		t.Errorf("%d records and %d tombstones are left, want 2 and 1", s.Records, s.Tombstones)
	}
	if e, _, err := db.Get("/e/short", short.Version); err != nil || string(e.Value) != "x" {
		t.Errorf("it is still readable at its version: %q (%v)", e.Value, err)
	}

	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	clock.advance(2 * time.Hour)
	db = openTest(t, o)
	w = watch(t, db, "/e/", db.Horizon())
	if e := takeN(t, w, 1); e[0].Key != "/e/long" || !e[0].Deleted {
		t.Errorf("after a restart: %s, want the end of /e/long", describe(e[0]))
	}
	if _, _, err := db.Get("/e/kept", Latest); err != nil {
		t.Errorf("a record whose time to live was taken away: %v", err)
	}
}

func TestExpiryOfMany(t *testing.T) {
	clock := newFakeClock()
	db := openTest(t, Options{Clock: clock})
	const many = 3 * maxExpiryBatch
	var n int
	for i := range many {
		mustUpdate(t, db, Update{Key: fmt.Sprintf("/e/%d", i), TTL: time.Duration(i+1) * time.Second})
	}
	w := watch(t, db, "/e/", db.Version())
	clock.advance(time.Duration(many+1) * time.Second)
	for _, e := range takeN(t, w, many) {
		if !e.Deleted {
			t.Fatalf("unexpected %s", describe(e))
		}
		n++
	}
	if _, _, err := db.Get("/e/0", Latest); !errors.Is(err, ErrNotFound) {
		t.Errorf("expired record: error %v, want ErrNotFound", err)
	}
	if s := db.Stats(); s.Records != 0 || s.Expiring != 0 {
		t.Errorf("%d records, %d to expire after %d expired, want none", s.Records, s.Expiring, n)
	}
}
