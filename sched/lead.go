package sched

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"k8s.io/utils/clock"

	"shoal/gossip/rendezvous"
)

// stableFor is how long a peer must have been seen alive before it may lead: a
// peer that comes and goes would otherwise take work over each time.
const stableFor = 15 * time.Second

// Lead runs some work on this peer while it leads it: while it comes first among
// the stable peers (gossip/rendezvous).
type Lead struct {
	// Work names what is led, and Self this peer.
	Work, Self string
	// Alive returns the peers believed to be alive, this one among them.
	Alive func() []string
	// Changed has an element whenever Alive may say something else.
	Changed <-chan struct{}
	// Alone: this peer is the only one the cell has, so that there is nobody to
	// wait for.
	Alone func() bool
	// Run does the work until its context ends. An error ends Lead.
	Run    func(context.Context) error
	Logger *slog.Logger
	// Clock is the real one when nil.
	Clock clock.Clock
}

// While leads whenever it is this peer's turn, until the context ends. Two
// peers may lead at once when they see different peers alive, so the work must
// bear that.
func (l *Lead) While(ctx context.Context) error {
	if l.Clock == nil {
		l.Clock = clock.RealClock{}
	}
	since := map[string]time.Time{}
	var current *term
	defer func() {
		if current != nil {
			_ = current.end()
		}
	}()
	for {
		leads, again := l.turn(since)
		var over chan error
		switch {
		case leads && current == nil:
			l.Logger.Info("this peer leads", "work", l.Work)
			current = l.begin(ctx)
		case !leads && current != nil:
			err := current.end()
			current = nil
			l.Logger.Info("this peer no longer leads", "work", l.Work)
			if err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
		}
		if current != nil {
			over = current.over
		}
		timer := l.Clock.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-l.Changed:
		case <-timer.C():
		case err := <-over:
			current.cancel()
			current = nil
			timer.Stop()
			return err
		}
		timer.Stop()
	}
}

// term is one time of leading.
type term struct {
	cancel context.CancelFunc
	over   chan error
}

func (l *Lead) begin(ctx context.Context) *term {
	ctx, cancel := context.WithCancel(ctx)
	t := &term{cancel, make(chan error, 1)}
	go func() { t.over <- l.Run(ctx) }()
	return t
}

func (t *term) end() error {
	t.cancel()
	return <-t.over
}

// turn says whether this peer leads, and after what time to ask again although
// nothing changed.
func (l *Lead) turn(since map[string]time.Time) (leads bool, again time.Duration) {
	now := l.Clock.Now()
	alive := l.Alive()
	maps.DeleteFunc(since, func(p string, _ time.Time) bool { return !slices.Contains(alive, p) })
	again = time.Hour
	var stable []string
	for _, p := range alive {
		if _, known := since[p]; !known {
			since[p] = now
		}
		if left := stableFor - now.Sub(since[p]); left > 0 {
			again = min(again, left)
		} else {
			stable = append(stable, p)
		}
	}
	if l.Alone() {
		return true, again
	}
	return rendezvous.First(l.Work, stable) == l.Self, again
}
