package sim

import (
	"testing"

	"shoal/store"
)

// lone is a replica on a disk of the simulator, without a cell.
type lone struct {
	t    *testing.T
	disk *disk
	loop loop
}

func (l *lone) open(o store.ReplicaOptions) *store.Replica {
	l.t.Helper()
	l.disk.reopen()
	o.Clock, o.Tag = &clock{loop: &l.loop, grain: 1}, 1
	r, err := store.OpenReplica(l.disk, o)
	if err == nil {
		err = r.LoadAll()
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

func (l *lone) write(r *store.Replica, u store.Update) store.Entry {
	l.t.Helper()
	l.loop.now += 1e6
	u.Expect = store.Any
	e, _, err := r.Write(u)
	if err != nil {
		l.t.Fatal(err)
	}
	return e
}

// TestFloorThatLanded: a disk that fills up in the midst of reaping leaves the
// floor and the removals so far, and the replica knows of both (gossip seed
// 5008).
func TestFloorThatLanded(t *testing.T) {
	for writes := range 4 {
		l := &lone{t: t, disk: newDisk()}
		r := l.open(store.ReplicaOptions{})
		l.write(r, store.Update{Key: "/t/x", UID: "x"})
		l.write(r, store.Update{Key: "/t/x", Delete: true})
		l.disk.stopAfter, l.disk.stopWith = writes, errFull
		_ = r.Reap(10)
		l.disk.stopAfter = -1
		if e := l.write(r, store.Update{Key: "/t/x", UID: "y"}); e.CausalLength != 3 {
			t.Errorf("after %d writes of reaping: made anew with causal length %d, want 3", writes, e.CausalLength)
		}
	}
}

// TestManyRestarts: each restart leaves a gap, and with many of them a peer goes
// on as another, whatever a crash leaves of that.
func TestManyRestarts(t *testing.T) {
	const spans = 5
	l := &lone{t: t, disk: newDisk()}
	actors := make(map[store.Actor]bool)
	for i := range 10 * spans {
		if i%3 == 0 {
			l.disk.reopen()
			l.disk.stopAfter, l.disk.stopWith = 1, errCrashed
			_, _ = store.OpenReplica(l.disk, store.ReplicaOptions{Clock: &clock{loop: &l.loop, grain: 1}, OwnSpans: spans})
		}
		r := l.open(store.ReplicaOptions{OwnSpans: spans})
		l.write(r, store.Update{Key: "/t/x", UID: "x"})
		actors[r.Actor()] = true
		for a, s := range r.Vector() {
			if len(s) > spans {
				t.Fatalf("after %d restarts %d spans of %x", i, len(s), uint64(a))
			}
		}
		if n := r.Vector().Count(); n != uint64(i+1) {
			t.Fatalf("after %d writes %d dots", i+1, n)
		}
	}
	if len(actors) < 8 || len(actors) > 20 {
		t.Errorf("%d actors after %d restarts, limit %d spans", len(actors), 10*spans, spans)
	}
}
