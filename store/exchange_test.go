package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"shoal/store/vector"
	"shoal/test/eventually"
)

// pull gives to what from has and it lacks, as gossip does.
func pull(t *testing.T, to, from *DB) {
	t.Helper()
	for {
		missing := to.Vector().Missing(from.Vector())
		if len(missing) == 0 {
			break
		}
		deltas, _, err := from.Deltas(missing, 1<<20)
		if errors.Is(err, ErrGone) {
			pullAll(t, to, from)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := to.Merge(t.Context(), deltas); err != nil {
			t.Fatal(err)
		}
	}
	to.Report(from.Actor(), from.Vector())
}

// pullAll gives to everything that from has.
func pullAll(t *testing.T, to, from *DB) {
	t.Helper()
	var all []Delta
	v, floor, err := from.Snapshot(t.Context(), func(d Delta) error {
		wire := AppendDelta(nil, &d)
		copied, err := DecodeDelta(wire)
		all = append(all, copied)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Merge(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if err := to.Adopt(t.Context(), v, floor); err != nil {
		t.Fatal(err)
	}
}

func mustEqual(t *testing.T, a, b *DB) {
	t.Helper()
	if a.Fingerprints() != b.Fingerprints() {
		t.Errorf("fingerprints differ")
	}
	if a.VectorDigest() != b.VectorDigest() {
		t.Errorf("vectors differ: %v and %v", a.Vector(), b.Vector())
	}
}

func join(t *testing.T, peers ...*DB) {
	t.Helper()
	for _, p := range peers {
		mustUpdate(t, peers[0], Update{Key: MemberKey(p.Actor()), UID: fmt.Sprint(p.Actor()), Value: []byte("m")})
	}
	for _, p := range peers[1:] {
		pull(t, p, peers[0])
	}
}

func openPeer(t *testing.T, tag Tag, o Options) *DB {
	o.Tag = tag
	return openTest(t, o)
}

func TestExchange(t *testing.T) {
	a, b := openPeer(t, 1, Options{}), openPeer(t, 2, Options{})
	w := watch(t, b, "/t/", b.Version())
	for i := range 100 {
		mustUpdate(t, a, Update{Key: fmt.Sprintf("/t/%d", i%40), Expect: Any, UID: testUUID, Value: []byte(fmt.Sprint(i))})
	}
	mustUpdate(t, b, Update{Key: "/t/b", UID: "b", Value: []byte("b")})
	pull(t, b, a)
	pull(t, a, b)
	mustEqual(t, a, b)
	if e, _, err := b.Get("/t/19", Latest); err != nil || string(e.Value) != "99" {
		t.Errorf("at the other peer: %q, %v", e.Value, err)
	}
	takeN(t, w, 41)
	// Again changes nothing and tells nobody.
	version := b.Version()
	deltas, _, err := a.Deltas(a.Vector(), 1<<20)
	if err != nil || len(deltas) == 0 {
		t.Fatalf("%d deltas, %v", len(deltas), err)
	}
	if err := b.Merge(t.Context(), deltas); err != nil {
		t.Fatal(err)
	}
	if b.Version() != version {
		t.Error("a merge that changes nothing took up a version")
	}
}

func TestExchangeSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	a, b := openPeer(t, 1, Options{Dir: dir}), openPeer(t, 2, Options{})
	for i := range 50 {
		mustUpdate(t, a, Update{Key: fmt.Sprintf("/t/%d", i), UID: "u", Value: []byte("v")})
		mustUpdate(t, b, Update{Key: fmt.Sprintf("/u/%d", i), UID: "u", Value: []byte("v")})
	}
	pull(t, a, b)
	before, prints, actor := a.Vector(), a.Fingerprints(), a.Actor()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = openPeer(t, 1, Options{Dir: dir})
	if !a.Vector().Equal(before) || a.Fingerprints() != prints || a.Actor() != actor {
		t.Fatalf("holds %v after a restart, held %v", a.Vector(), before)
	}
	mustUpdate(t, a, Update{Key: "/t/after", UID: "u", Value: []byte("v")})
	pull(t, b, a)
	mustEqual(t, a, b)
}

// TestLogIsBounded: what is no longer logged is said to be gone, also after a
// restart, and the vector does not forget it.
func TestLogIsBounded(t *testing.T) {
	dir := t.TempDir()
	a, b := openPeer(t, 1, Options{Dir: dir}), openPeer(t, 2, Options{})
	a.replica.o.LogDots = 64
	for i := range 500 {
		mustUpdate(t, a, Update{Key: fmt.Sprintf("/t/%d", i%7), Expect: Any, UID: "u", Value: []byte(fmt.Sprint(i))})
	}
	if n := a.Stats().LoggedDots; n > 64+16 {
		t.Errorf("%d dots logged, limit 64", n)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = openPeer(t, 1, Options{Dir: dir})
	if n := a.Vector().Count(); n != 500 {
		t.Fatalf("holds %d dots, want 500", n)
	}
	if _, _, err := a.Deltas(a.Vector(), 1<<20); !errors.Is(err, ErrGone) {
		t.Errorf("all dots: %v", err)
	}
	pull(t, b, a)
	mustEqual(t, a, b)
	mustUpdate(t, a, Update{Key: "/t/next", UID: "u", Value: []byte("v")})
	if deltas, _, err := a.Deltas(b.Vector().Missing(a.Vector()), 1<<20); err != nil || len(deltas) != 1 {
		t.Errorf("%d deltas and %v", len(deltas), err)
	}
}

// TestReapingWaitsForMembers: a tombstone stays until every member has it, and
// what is made anew under its name is later than it everywhere.
func TestReapingWaitsForMembers(t *testing.T) {
	clock := newFakeClock()
	a, b := openPeer(t, 1, Options{Clock: clock}), openPeer(t, 2, Options{Clock: clock})
	join(t, a, b)
	mustUpdate(t, a, Update{Key: "/t/x", UID: "x", Value: []byte("x")})
	pull(t, b, a)
	mustUpdate(t, a, Update{Key: "/t/x", Expect: Any, Delete: true})
	clock.advance(defaultHistoryWindow + time.Minute)
	eventually.True(t, "history is cut", func() bool { return a.Horizon() == a.Version() || a.Horizon() > a.Version()-1<<40 })
	a.reapTombstones()
	if n := a.Stats().Tombstones; n != 1 {
		t.Fatalf("%d tombstones before the other member has it", n)
	}
	a.Report(b.Actor(), b.Vector()) // begins a round
	pull(t, b, a)
	a.Report(b.Actor(), b.Vector()) // ends it
	clock.advance(time.Minute)
	eventually.True(t, "reaping", func() bool { a.reapTombstones(); return a.Stats().Tombstones == 0 })
	if e := mustUpdate(t, a, Update{Key: "/t/x", UID: "y", Value: []byte("y")}); e.CausalLength != 3 {
		t.Errorf("made anew with causal length %d", e.CausalLength)
	}
	pull(t, b, a)
	if e, _, err := b.Get("/t/x", Latest); err != nil || e.UID != "y" {
		t.Errorf("where the tombstone still was: %+v, %v", e, err)
	}
}

func TestFutureIsHeldBack(t *testing.T) {
	ahead, clock := newFakeClock(), newFakeClock()
	ahead.advance(10 * time.Minute)
	a, b := openPeer(t, 1, Options{Clock: ahead}), openPeer(t, 2, Options{Clock: clock})
	mustUpdate(t, a, Update{Key: "/t/x", UID: "x", Value: []byte("x")})
	deltas, _, err := a.Deltas(a.Vector(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := b.Merge(t.Context(), deltas); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.Stats().HeldBack; n != 1 || b.Vector().Count() != 0 {
		t.Errorf("%d held back, %d dots noted as held", n, b.Vector().Count())
	}
	// A snapshot brings the same without a dot.
	bare := []Delta{{Key: deltas[0].Key, Record: deltas[0].Record}}
	if err := b.Merge(t.Context(), bare); err != nil {
		t.Fatal(err)
	}
	if err := b.Adopt(t.Context(), a.Vector(), 0); !errors.Is(err, ErrHeldBack) {
		t.Errorf("adopting what is held back: %v", err)
	}
	clock.advance(10 * time.Minute)
	eventually.True(t, "its time comes", func() bool {
		clock.advance(releaseEvery)
		_, _, err := b.Get("/t/x", Latest)
		return err == nil
	})
	mustEqual(t, a, b)
}

// TestLostWrites: a disk that lied about syncing makes its peer a new actor, and
// neither what the others had nor what was written since is lost.
func TestLostWrites(t *testing.T) {
	dir := t.TempDir()
	a, b := openPeer(t, 1, Options{Dir: dir}), openPeer(t, 2, Options{})
	mustUpdate(t, a, Update{Key: "/t/kept", UID: "u", Value: []byte("v")})
	pull(t, b, a)
	old := a.Actor()
	// What b has of a that a's disk does not: as if a had lost it.
	lost := Delta{Key: "/t/lost", Dot: Dot{Actor: old, Sequence: 2}, Record: Record{
		UID: "l", CausalLength: 1, Stamps: []Stamp{{Time: 77, Actor: old}}, Born: Stamp{Time: 77, Actor: old}, Value: []byte("l"),
	}}
	if err := b.Merge(t.Context(), []Delta{lost}); err != nil {
		t.Fatal(err)
	}
	mustUpdate(t, a, Update{Key: "/t/new", UID: "u", Value: []byte("n")}) // the same dot as the lost one
	a.Report(b.Actor(), vector.Vector{old: {{First: 1, Last: 3}}})
	eventually.True(t, "a new actor", func() bool { return a.Actor() != old })
	pull(t, a, b)
	pull(t, b, a)
	mustEqual(t, a, b)
	for _, key := range []string{"/t/kept", "/t/lost", "/t/new"} {
		for i, db := range []*DB{a, b} {
			if _, _, err := db.Get(key, Latest); err != nil {
				t.Errorf("%s at peer %d: %v", key, i, err)
			}
		}
	}
	actor, held := a.Actor(), a.Vector()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = openPeer(t, 1, Options{Dir: dir})
	if a.Actor() != actor || !a.Vector().Equal(held) {
		t.Errorf("after a restart: actor %x holds %v, was %x with %v", a.Actor(), a.Vector(), actor, held)
	}
}

// TestDisplaced: of two objects of one name the earlier one stays, watchers see
// one go and the other come, and somebody is told.
func TestDisplaced(t *testing.T) {
	var lost []string
	a := openPeer(t, 1, Options{})
	b := openPeer(t, 2, Options{Displaced: func(_ string, _, l Record) { lost = append(lost, l.UID) }})
	mustUpdate(t, a, Update{Key: "/t/x", UID: "first", Value: []byte("1")})
	mustUpdate(t, b, Update{Key: "/t/x", UID: "second", Value: []byte("2")})
	w := watch(t, b, "/t/", b.Version())
	pull(t, b, a)
	events := takeN(t, w, 2)
	if !events[0].Deleted || string(events[0].Prev) != "2" || events[1].Deleted || events[1].PrevVersion != 0 || string(events[1].Value) != "1" {
		t.Errorf("told %+v and %+v", events[0], events[1])
	}
	if len(lost) != 1 || lost[0] != "second" {
		t.Errorf("displaced %v", lost)
	}
	pull(t, a, b)
	mustEqual(t, a, b)
}

func FuzzDecodeDelta(f *testing.F) {
	d := Delta{Key: "/t/x", Dot: Dot{Actor: 7, Sequence: 9}, Also: []Dot{{Actor: 8, Sequence: 1}}, Record: Record{
		UID: testUUID, CausalLength: 1, Stamps: []Stamp{{Time: 5, Actor: 7}}, Born: Stamp{Time: 5, Actor: 7}, Value: []byte("v"),
	}}
	f.Add(AppendDelta(nil, &d))
	f.Add(AppendDelta(nil, &Delta{Dot: Dot{Actor: 7, Sequence: 1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := DecodeDelta(b)
		if err != nil {
			return
		}
		if again := AppendDelta(nil, &d); string(again) != string(b) {
			t.Fatalf("%x came back as %x", b, again)
		}
	})
}

func FuzzDecodeChunk(f *testing.F) {
	f.Add(appendChunk(nil, 5, []loggedDot{{Dot{Actor: 1, Sequence: 2}, "/t/x"}, {Dot{Actor: 1, Sequence: 3}, ""}}))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _, _ = decodeChunk(b) })
}

func FuzzDecodeCheckpoint(f *testing.F) {
	f.Add(appendCheckpoint(nil, checkpoint{hlc: 5, floor: 2, vector: vector.Vector{1: {{First: 1, Last: 4}}}}))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = decodeCheckpoint(b) })
}

// BenchmarkMerge measures records of 1 KiB taken in from a peer.
func BenchmarkMerge(b *testing.B) {
	db := openBench(b)
	value := make([]byte, benchValueBytes)
	deltas := make([]Delta, 0, 512)
	from := Actor(99)
	now := HLC(0).Tick(time.Now())
	b.ResetTimer()
	for i := range b.N {
		s := Stamp{Time: now + HLC(i), Actor: from}
		deltas = append(deltas, Delta{
			Key:    fmt.Sprintf("/registry/things/ns/%d", i),
			Dot:    Dot{Actor: from, Sequence: uint64(i + 1)},
			Record: Record{UID: testUUID, CausalLength: 1, Born: s, Stamps: []Stamp{s}, Value: value},
		})
		if len(deltas) == cap(deltas) || i == b.N-1 {
			if err := db.Merge(b.Context(), deltas); err != nil {
				b.Fatal(err)
			}
			deltas = deltas[:0]
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
