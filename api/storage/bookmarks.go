package storage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"shoal/store"
)

// bookmarkLead before a watch's deadline it gets a last bookmark, so that its
// client resumes from there.
const bookmarkLead = 2 * time.Second

// sendBookmark tells the client how far it has come; initialEnd marks the end
// of the set a watch-list began with.
func (w *watching) sendBookmark(version store.Version, initialEnd bool) bool {
	obj := w.newFunc()
	if err := w.versioner.UpdateObject(obj, uint64(version)); err != nil {
		w.sendError(fmt.Errorf("set resource version of bookmark: %w", err))
		return false
	}
	if initialEnd {
		if err := storage.AnnotateInitialEventsEndBookmark(obj); err != nil {
			w.sendError(fmt.Errorf("annotate bookmark of %s: %w", w.resource, err))
			return false
		}
	}
	return w.send(watch.Event{Type: watch.Bookmark, Object: obj})
}

// bookmarks says when the next one is due: at an interval, and once shortly
// before the watch's deadline.
type bookmarks struct {
	every  time.Duration
	ticker *time.Timer
	last   *time.Timer
}

func (w *watching) newBookmarks() *bookmarks {
	b := &bookmarks{}
	switch {
	case w.newFunc == nil:
	case w.opts.ProgressNotify:
		b.every = w.progressEvery
	case w.pred.AllowWatchBookmarks:
		b.every = w.bookmarkEvery
	}
	if b.every == 0 {
		return b
	}
	// Spread the first over the interval: watches often start together.
	b.ticker = time.NewTimer(b.every - rand.N(b.every/4+1))
	if deadline, ok := w.ctx.Deadline(); ok {
		if lead := time.Until(deadline) - bookmarkLead; lead > 0 {
			b.last = time.NewTimer(lead)
		}
	}
	return b
}

// tick and final are nil, and so never ready, where there is nothing to send.
func (b *bookmarks) tick() <-chan time.Time  { return timerC(b.ticker) }
func (b *bookmarks) final() <-chan time.Time { return timerC(b.last) }

func timerC(t *time.Timer) <-chan time.Time {
	if t == nil {
		return nil
	}
	return t.C
}

func (b *bookmarks) again() { b.ticker.Reset(b.every) }

func (b *bookmarks) stop() {
	for _, t := range []*time.Timer{b.ticker, b.last} {
		if t != nil {
			t.Stop()
		}
	}
}

// progressRequests is the watches that asked for progress.
type progressRequests struct {
	mu sync.Mutex
	// watches is guarded by mu.
	watches map[*watching]struct{}
}

// add returns how to take w off again.
func (p *progressRequests) add(w *watching) (remove func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watches == nil {
		p.watches = make(map[*watching]struct{})
	}
	p.watches[w] = struct{}{}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watches, w)
	}
}

// RequestWatchProgress makes watches that asked for progress send a bookmark.
func (s *Storage) RequestWatchProgress(context.Context) error {
	s.progress.mu.Lock()
	defer s.progress.mu.Unlock()
	for w := range s.progress.watches {
		select {
		case w.poked <- struct{}{}:
		default:
		}
	}
	return nil
}
