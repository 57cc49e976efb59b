package slices

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

const (
	// Stable is how long a peer must have been seen alive before it may lead: a
	// peer that comes and goes would otherwise take work over each time.
	Stable = 15 * time.Second
	// retakeAfter is when a slice whose record could not be written is tried again.
	retakeAfter = time.Second
	// maxTakes is how many records are written at once.
	maxTakes = 32
)

// Record is what is known of a slice in the whole cell.
type Record struct {
	Slice  int
	Leader string
	// Epoch grows with every change of leader; zero: nobody has led it yet.
	Epoch int64
	Since time.Time
}

// Records keeps them.
type Records interface {
	// Take makes leader the slice's leader in an epoch above all that this peer has
	// seen of it. One who is recorded in the newest already keeps that.
	Take(ctx context.Context, slice int, leader string) (Record, error)
	// Last is a slice's record as this peer has it.
	Last(slice int) Record
	// Changed has an element whenever a record may have changed.
	Changed() <-chan struct{}
}

// Leader says which slices this peer leads. Fill the fields, call Run, and read
// the rest.
type Leader struct {
	Self string
	// Alive returns the peers believed to be alive, this one among them.
	Alive func() []string
	// Changed has an element whenever Alive may say something else.
	Changed <-chan struct{}
	// Alone: this peer is the only one the cell has, so that there is nobody to
	// wait for.
	Alone   func() bool
	Records Records
	Logger  *slog.Logger
	// Clock is the real one when nil.
	Clock clock.Clock

	since  map[string]time.Time // when a peer was first seen alive; of Run
	table  table                // of Run
	yields map[int]time.Time    // until when a slice is left to another; of Run

	mu       sync.Mutex
	led      map[int]Record             // guarded by mu; taken, and ours
	watchers map[chan struct{}]struct{} // guarded by mu
}

// Led is what this peer leads now.
func (l *Leader) Led() Set {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s Set
	for i := range l.led {
		s = s.With(i)
	}
	return s
}

// Stamp is what this peer's work in a slice carries; false if it does not lead
// the slice.
func (l *Leader) Stamp(slice int) (Stamp, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, leads := l.led[slice]
	return Stamp{Slice: slice, Epoch: r.Epoch, Leader: l.Self}, leads
}

// Watch returns a channel that has an element whenever Led may have changed, and
// what ends it. It has one from the start.
func (l *Leader) Watch() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	c <- struct{}{}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watchers == nil {
		l.watchers = map[chan struct{}]struct{}{}
	}
	l.watchers[c] = struct{}{}
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, c)
	}
}

// Run follows the membership until the context ends; then this peer leads
// nothing.
func (l *Leader) Run(ctx context.Context) error {
	if l.Clock == nil {
		l.Clock = clock.RealClock{}
	}
	l.since, l.yields = map[string]time.Time{}, map[int]time.Time{}
	defer l.keep(Set{})
	for {
		due, again := l.due()
		l.keep(due)
		if !l.take(ctx, due) {
			again = min(again, retakeAfter)
		}
		timer := l.Clock.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-l.Changed:
		case <-l.Records.Changed():
		case <-timer.C():
		}
		timer.Stop()
	}
}

// due is what this peer is to lead, and after what time to ask again although
// nothing changed.
func (l *Leader) due() (Set, time.Duration) {
	now, again := l.Clock.Now(), time.Hour
	alive := map[string]bool{}
	var stable []string
	for _, p := range l.Alive() {
		alive[p] = true
		if _, known := l.since[p]; !known {
			l.since[p] = now
		}
		if left := Stable - now.Sub(l.since[p]); left > 0 {
			again = min(again, left)
		} else {
			stable = append(stable, p)
		}
	}
	maps.DeleteFunc(l.since, func(p string, _ time.Time) bool { return !alive[p] })
	if l.Alone() {
		l.table.set([]string{l.Self})
	} else {
		l.table.set(stable)
	}
	due := l.table.led(l.Self)
	l.yield(alive, now)
	for i, until := range l.yields {
		if left := until.Sub(now); left > 0 {
			due, again = due.Without(i), min(again, left)
		} else {
			delete(l.yields, i)
		}
	}
	return due, again
}

// yield gives way for a while where a living peer has taken a slice that this
// one leads: they see different peers, and would take it from each other without
// end. Of two sides of a split that meet, both lead until their records have;
// then one gives way, and who comes first when both see all peers takes the
// slice in an epoch above both.
func (l *Leader) yield(alive map[string]bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range l.led {
		last := l.Records.Last(i)
		if last.Leader != l.Self && last.Epoch >= r.Epoch && alive[last.Leader] {
			l.yields[i] = now.Add(Stable)
		}
	}
}

// keep gives up what is not due any longer.
func (l *Leader) keep(due Set) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := 0
	for i := range l.led {
		if !due.Has(i) {
			delete(l.led, i)
			lost++
		}
	}
	if lost > 0 {
		l.Logger.Info("this peer leads fewer slices", "lost", lost, "leads", len(l.led))
		l.tell()
	}
}

// take takes what is due and not led yet; false if not all could be.
func (l *Leader) take(ctx context.Context, due Set) bool {
	missing := due.Minus(l.recorded())
	if missing.Len() == 0 {
		return true
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var failed error
	taken := map[int]Record{}
	slots := make(chan struct{}, maxTakes)
	for i := range missing.Each() {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			r, err := l.Records.Take(ctx, i, l.Self)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				return
			}
			taken[i] = r
		})
	}
	all.Wait()
	if failed != nil && ctx.Err() == nil {
		l.Logger.Warn("slices could not be taken; they are tried again", "missing", missing.Len()-len(taken), "error", failed)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.led == nil {
		l.led = map[int]Record{}
	}
	maps.Copy(l.led, taken)
	if len(taken) > 0 {
		l.Logger.Info("this peer leads more slices", "taken", len(taken), "leads", len(l.led))
		l.tell()
	}
	return failed == nil
}

// recorded is what this peer leads by the records too. A record of an older
// epoch, or of a peer that is gone, came late, from the other side of a split.
func (l *Leader) recorded() Set {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s Set
	for i, r := range l.led {
		if last := l.Records.Last(i); last.Leader == l.Self && last.Epoch == r.Epoch {
			s = s.With(i)
		}
	}
	return s
}

// tell is called with mu held.
func (l *Leader) tell() {
	for c := range l.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
