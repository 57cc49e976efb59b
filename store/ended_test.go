package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"shoal/test/eventually"
)

// TestEndsForAll: a record whose time is over for one peer, while another has
// made it last, ends for both, whoever hears of it first.
func TestEndsForAll(t *testing.T) {
	for _, first := range []string{"who ended it", "who prolonged it"} {
		t.Run(first, func(t *testing.T) {
			fast, slow := newFakeClock(), newFakeClock()
			a, b := openPeer(t, 1, Options{Clock: fast}), openPeer(t, 2, Options{Clock: slow})
			join(t, a, b)
			mustUpdate(t, a, Update{Key: "/t/x", UID: "x", TTL: 200 * time.Millisecond})
			pull(t, b, a)
			fast.advance(300 * time.Millisecond)
			eventually.True(t, "its end", func() bool { _, _, err := a.Get("/t/x", Latest); return errors.Is(err, ErrNotFound) })
			mustUpdate(t, b, Update{Key: "/t/x", Expect: Any, UID: "x", Value: []byte("lasts")})
			for range 2 {
				if first == "who ended it" {
					pull(t, a, b)
					pull(t, b, a)
				} else {
					pull(t, b, a)
					pull(t, a, b)
				}
			}
			mustEqual(t, a, b)
			for _, db := range []*DB{a, b} {
				if e, _, err := db.Get("/t/x", Latest); !errors.Is(err, ErrNotFound) {
					t.Errorf("it is still at one of the two: %+v, %v", e, err)
				}
			}
			// Made anew it stays.
			mustUpdate(t, b, Update{Key: "/t/x", UID: "y", Value: []byte("anew")})
			pull(t, a, b)
			if e, _, err := a.Get("/t/x", Latest); err != nil || e.UID != "y" {
				t.Errorf("made anew: %+v, %v", e, err)
			}
		})
	}
}

// TestStartOver: of what a peer was given while joining nothing stays, and of
// its own writes all.
func TestStartOver(t *testing.T) {
	a, b := openPeer(t, 1, Options{}), openPeer(t, 2, Options{Joining: true})
	for i := range 3 * maxCleared {
		mustUpdate(t, a, Update{Key: fmt.Sprintf("/t/%d", i), UID: "u", Value: []byte("v")})
	}
	mustUpdate(t, b, Update{Key: MemberKey(b.Actor()), Expect: Any, UID: "m"})
	var states []Delta
	if _, _, err := a.Snapshot(t.Context(), func(d Delta) error {
		d.Record.Value = slices.Clone(d.Record.Value)
		states = append(states, d)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := b.Merge(t.Context(), states[:2*maxCleared]); err != nil {
		t.Fatal(err)
	}
	if err := b.StartOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, prints := b.Stats().Records, b.Fingerprints(); n != 1 || prints == (Fingerprints{}) {
		t.Errorf("%d records are left, want its own", n)
	}
	if err := b.Merge(t.Context(), states); err != nil {
		t.Fatal(err)
	}
	if err := b.Adopt(t.Context(), a.Vector(), a.Floor()); err != nil {
		t.Fatal(err)
	}
	if err := b.StartOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	pull(t, a, b)
	mustEqual(t, a, b)
}
