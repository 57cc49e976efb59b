package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
)

func mustUpdate(t testing.TB, db *DB, u Update) Entry {
	t.Helper()
	e, err := db.Update(t.Context(), u)
	if err != nil {
		t.Fatalf("update %s: %v", u.Key, err)
	}
	return e
}

func TestUpdateExpectations(t *testing.T) {
	db := openTest(t, Options{})
	created := mustUpdate(t, db, Update{Key: "/a", UID: "1", Value: []byte("one")})
	updated := mustUpdate(t, db, Update{Key: "/a", Expect: created.Version, UID: "1", Value: []byte("two")})
	if updated.Version <= created.Version {
		t.Errorf("updated to version %s from %s", updated.Version, created.Version)
	}
	for name, u := range map[string]Update{
		"create of what exists":        {Key: "/a", Expect: Absent},
		"update of an older version":   {Key: "/a", Expect: created.Version},
		"delete of an older version":   {Key: "/a", Expect: created.Version, Delete: true},
		"update of what was never":     {Key: "/b", Expect: created.Version},
		"delete at a version of never": {Key: "/b", Expect: created.Version, Delete: true},
	} {
		_, err := db.Update(t.Context(), u)
		var conflict *ConflictError
		if !errors.As(err, &conflict) {
			t.Errorf("%s: error %v, want a conflict", name, err)
			continue
		}
		if u.Key == "/a" && (conflict.Current == nil || string(conflict.Current.Value) != "two") {
			t.Errorf("%s: conflict shows %+v, want the current record", name, conflict.Current)
		}
	}
	for name, u := range map[string]Update{
		"unconditional": {Key: "/b", Expect: Any, Delete: true},
		"of nothing":    {Key: "/b", Expect: Absent, Delete: true},
	} {
		if _, err := db.Update(t.Context(), u); !errors.Is(err, ErrNotFound) {
			t.Errorf("delete %s: error %v, want ErrNotFound", name, err)
		}
	}
}

func TestCausalLengthAndBirth(t *testing.T) {
	db := openTest(t, Options{})
	created := mustUpdate(t, db, Update{Key: "/a", UID: "1", Value: []byte("one")})
	updated := mustUpdate(t, db, Update{Key: "/a", Expect: Any, UID: "1", Value: []byte("two")})
	deleted := mustUpdate(t, db, Update{Key: "/a", Expect: Any, Delete: true})
	again := mustUpdate(t, db, Update{Key: "/a", Expect: Absent, UID: "2", Value: []byte("three")})
	for name, c := range map[string]struct {
		e      Entry
		length uint64
		born   Stamp
	}{
		"created":    {created, 1, created.Stamps[0]},
		"updated":    {updated, 1, created.Stamps[0]},
		"deleted":    {deleted, 2, Stamp{}},
		"re-created": {again, 3, again.Stamps[0]},
	} {
		if c.e.CausalLength != c.length || !c.e.Born.same(c.born) {
			t.Errorf("%s: causal length %d born %+v, want %d and %+v", name, c.e.CausalLength, c.e.Born, c.length, c.born)
		}
	}
	stored, _, err := db.Get("/a", Latest)
	if err != nil || stored.CausalLength != 3 || stored.UID != "2" {
		t.Errorf("stored %+v (%v), want causal length 3 of uid 2", stored, err)
	}
}

func TestUpdateLimits(t *testing.T) {
	db := openTest(t, Options{})
	largest := bytes.Repeat([]byte("x"), MaxValueBytes)
	mustUpdate(t, db, Update{Key: "/largest", Value: largest})
	if e, _, err := db.Get("/largest", Latest); err != nil || !bytes.Equal(e.Value, largest) {
		t.Errorf("the largest object came back with %d bytes (%v)", len(e.Value), err)
	}
	var tooLarge *TooLargeError
	if _, err := db.Update(t.Context(), Update{Key: "/larger", Value: append(largest, 'x')}); !errors.As(err, &tooLarge) {
		t.Errorf("over the limit: error %v, want a TooLargeError", err)
	}
	for _, key := range []string{"", "/", "relative", "/" + string(bytes.Repeat([]byte("k"), MaxKeyBytes))} {
		if _, err := db.Update(t.Context(), Update{Key: key}); err == nil {
			t.Errorf("key of %d bytes was accepted", len(key))
		}
	}
}

// TestConcurrentWriters: many writers increment counters with compare-and-swap;
// none is lost, and they share syncs.
func TestConcurrentWriters(t *testing.T) {
	db := openTest(t, Options{})
	const writers, rounds, keys = 16, 50, 4
	for k := range keys {
		mustUpdate(t, db, Update{Key: fmt.Sprintf("/count/%d", k), Value: []byte{0, 0}})
	}
	var n atomic.Int64
	err := inParallel(writers, func() error {
		for i := n.Add(1); i <= writers*rounds; i = n.Add(1) {
			if err := increment(t.Context(), db, fmt.Sprintf("/count/%d", i%keys)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for k := range keys {
		e, _, err := db.Get(fmt.Sprintf("/count/%d", k), Latest)
		if err != nil {
			t.Fatal(err)
		}
		total += int(e.Value[0])<<8 | int(e.Value[1])
	}
	if total != writers*rounds {
		t.Errorf("counted %d increments, want %d", total, writers*rounds)
	}
	if s := db.Stats(); s.Syncs >= s.Writes {
		t.Errorf("%d syncs for %d writes: concurrent writers do not share them", s.Syncs, s.Writes)
	}
}

func increment(ctx context.Context, db *DB, key string) error {
	for {
		e, _, err := db.Get(key, Latest)
		if err != nil {
			return err
		}
		count := int(e.Value[0])<<8 | int(e.Value[1]) + 1
		_, err = db.Update(ctx, Update{Key: key, Expect: e.Version, Value: []byte{byte(count >> 8), byte(count)}})
		var conflict *ConflictError
		if !errors.As(err, &conflict) {
			return err
		}
	}
}

func TestUpdateAfterClose(t *testing.T) {
	db := openTest(t, Options{})
	w, err := db.Watch("/", db.Version())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Update(t.Context(), Update{Key: "/a"}); !errors.Is(err, ErrClosed) {
		t.Errorf("update after close: error %v, want ErrClosed", err)
	}
	<-w.Ready()
	if _, _, err := w.Take(); !errors.Is(err, ErrClosed) {
		t.Errorf("watch after close: error %v, want ErrClosed", err)
	}
	if _, err := db.Watch("/", 0); !errors.Is(err, ErrClosed) {
		t.Errorf("new watch after close: error %v, want ErrClosed", err)
	}
}

// TestCloseUnderLoad: every writer gets an answer, and what was answered with
// success is there afterwards.
func TestCloseUnderLoad(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, Options{Dir: dir})
	var n, written atomic.Int64
	done := make(chan error, 1)
	go func() {
		done <- inParallel(8, func() error {
			for {
				_, err := db.Update(context.Background(), Update{Key: fmt.Sprintf("/load/%d", n.Add(1))})
				if errors.Is(err, ErrClosed) {
					return nil
				}
				if err != nil {
					return err
				}
				written.Add(1)
			}
		})
	}()
	for written.Load() < 100 {
		select {
		case err := <-done:
			t.Fatalf("writers stopped early: %v", err)
		default:
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	db = openTest(t, Options{Dir: dir})
	if count, err := db.Count(Range{Prefix: "/load/"}, Latest); err != nil || count < written.Load() {
		t.Errorf("found %d records (%v), %d were answered", count, err, written.Load())
	}
}
