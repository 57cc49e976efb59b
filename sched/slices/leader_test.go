package slices

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"
)

// shelf is the records of one side of a cell.
type shelf struct {
	mu      sync.Mutex
	records map[int]Record
	changed []chan struct{}
}

func (s *shelf) put(records ...Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		s.records[r.Slice] = r
	}
	for _, c := range s.changed {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// view is one peer's sight of a shelf and of its cell.
type view struct {
	shelf   atomic.Pointer[shelf]
	mine    chan struct{}
	members chan struct{}

	mu    sync.Mutex
	alive []string // guarded by mu
}

func (v *view) Changed() <-chan struct{} { return v.mine }

func (v *view) Last(i int) Record { return v.shelf.Load().copy()[i] }

func (v *view) Take(_ context.Context, i int, leader string) (Record, error) {
	was := v.Last(i)
	if was.Leader == leader {
		return was, nil
	}
	r := Record{Slice: i, Leader: leader, Epoch: was.Epoch + 1}
	v.shelf.Load().put(r)
	return r, nil
}

func (v *view) sees(peers ...string) {
	v.mu.Lock()
	v.alive = peers
	v.mu.Unlock()
	v.members <- struct{}{}
}

// moves to where the other side's records are.
func (v *view) moves(to *shelf) {
	to.mu.Lock()
	to.changed = append(to.changed, v.mine)
	to.mu.Unlock()
	v.shelf.Store(to)
	to.put()
}

func (v *view) living() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.alive
}

func (s *shelf) leader(t *testing.T, self string, c *testingclock.FakeClock, peers ...string) (*Leader, *view) {
	v := &view{mine: make(chan struct{}, 1), members: make(chan struct{}, 1), alive: peers}
	v.moves(s)
	l := &Leader{
		Self: self, Changed: v.members, Records: v, Clock: c, Logger: slog.New(slog.DiscardHandler),
		Alive: v.living, Alone: func() bool { return self == "alone" },
	}
	ctx, end := context.WithCancel(context.Background())
	over := make(chan error)
	go func() { over <- l.Run(ctx) }()
	t.Cleanup(func() { end(); <-over })
	return l, v
}

// becomes steps the clock until check returns "".
func becomes(t *testing.T, c *testingclock.FakeClock, check func() string) {
	t.Helper()
	missing := ""
	for range 4000 {
		if missing = check(); missing == "" {
			return
		}
		c.Step(50 * time.Millisecond)
		time.Sleep(time.Millisecond)
	}
	t.Fatal(missing)
}

func together(leaders ...*Leader) func() string {
	return func() string {
		n := 0
		var all Set
		for _, l := range leaders {
			for i := range l.Led().Each() {
				all = all.With(i)
				n++
			}
		}
		if n != Count || all != All() {
			return fmt.Sprintf("%d slices are led %d times, want all once", all.Len(), n)
		}
		return ""
	}
}

// TestAloneLeadsAll at once, in the first epoch, and keeps it over a restart.
func TestAloneLeadsAll(t *testing.T) {
	s, c := &shelf{records: map[int]Record{}}, testingclock.NewFakeClock(time.Unix(1000, 0))
	for range 2 {
		l, _ := s.leader(t, "alone", c, "alone")
		changed, stop := l.Watch()
		for l.Led() != All() {
			<-changed
		}
		stop()
		if s, leads := l.Stamp(255); !leads || s.Epoch != 1 {
			t.Errorf("stamp %v, %v, want epoch 1", s, leads)
		}
	}
}

// TestHandOver: a share moves when a peer is stable, comes back when it dies, and
// every move has a higher epoch.
func TestHandOver(t *testing.T) {
	s, c := &shelf{records: map[int]Record{}}, testingclock.NewFakeClock(time.Unix(1000, 0))
	a, av := s.leader(t, "a", c, "a", "b")
	b, bv := s.leader(t, "b", c, "a", "b")
	becomes(t, c, together(a, b))
	of := a.Led().Len()
	if of == 0 || of == Count {
		t.Fatalf("a leads %d of two peers' slices", of)
	}
	before := s.copy()
	bv.sees()
	av.sees("a")
	becomes(t, c, together(a))
	for i, r := range s.copy() {
		if moved := before[i].Leader == "b"; moved != (r.Epoch == before[i].Epoch+1) || r.Leader != "a" {
			t.Fatalf("%s: %+v after %+v", Name(i), r, before[i])
		}
	}
}

func (s *shelf) copy() map[int]Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.records)
}

// TestTwoSidesMeet: each side leads all; when they meet all is led once, in epochs
// above those of both.
func TestTwoSidesMeet(t *testing.T) {
	s, other := &shelf{records: map[int]Record{}}, &shelf{records: map[int]Record{}}
	c := testingclock.NewFakeClock(time.Unix(1000, 0))
	a, av := s.leader(t, "a", c, "a")
	b, bv := other.leader(t, "b", c, "b")
	becomes(t, c, together(a))
	becomes(t, c, together(b))
	av.sees("a", "b")
	bv.sees("a", "b")
	av.moves(other) // b's records remain, as if written later
	becomes(t, c, together(a, b))
	for i, r := range other.copy() {
		if r.Leader == "a" && r.Epoch < 2 {
			t.Errorf("%s is led again in epoch %d", Name(i), r.Epoch)
		}
	}
}
