package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"shoal/store"
)

// watchBuffer lets the watch decode ahead of its client a little. What the
// client does not take waits, undecoded, in the store's log.
const watchBuffer = 16

// watching is one watch; it implements watch.Interface.
type watching struct {
	*Storage
	ctx    context.Context
	cancel context.CancelFunc
	key    string
	opts   storage.ListOptions
	pred   storage.SelectionPredicate
	all    bool
	result chan watch.Event
	// from is the version whose changes have been told.
	from store.Version
	// initial: begin with what there is; marked: and end that with a bookmark.
	initial, marked bool
	// poked asks for a progress bookmark now.
	poked chan struct{}
}

// Watch sends changes at or under key, after what opts says to start from.
func (s *Storage) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	key, err := s.key(key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	version, err := s.versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	w := s.newWatching(ctx, key, store.Version(version), opts)
	if s.newFunc == nil && (opts.ProgressNotify || w.marked) {
		return nil, apierrors.NewInternalError(fmt.Errorf("watch %s: bookmarks were asked for and there is no function to make them", s.resource))
	}
	if err := w.start(w.prepare()); err != nil {
		return nil, err
	}
	// Reads take no time to be ready here: nothing has to fill a cache first.
	utilflowcontrol.WatchInitialized(ctx)
	return w, nil
}

// prepare deals with a version of another peer's: the changes after it have no
// order here, but a watch that begins with what there is needs none.
func (w *watching) prepare() error {
	switch {
	case !w.cell.foreign(w.from):
		return nil
	case !w.initial:
		return store.ErrExpired
	}
	if err := w.reach(w.ctx, w.from); err != nil {
		return err
	}
	w.from = store.Latest
	return nil
}

// start subscribes before it returns, so that nothing the caller does next is
// missed. A subscription refused, also for what prepare found, is told through
// the watch, as clients expect.
func (w *watching) start(refused error) error {
	w.starting.Lock()
	defer w.starting.Unlock()
	if err := w.ReadinessCheck(); err != nil {
		return err
	}
	if refused != nil {
		w.watches.Go(func() { w.run(nil, refused) })
		return nil
	}
	source, err := w.subscribe()
	w.watches.Go(func() { w.run(source, err) })
	return nil
}

func (s *Storage) newWatching(ctx context.Context, key string, from store.Version, opts storage.ListOptions) *watching {
	w := &watching{
		Storage: s,
		key:     key,
		opts:    opts,
		pred:    opts.Predicate,
		all:     opts.Predicate.Empty(),
		result:  make(chan watch.Event, watchBuffer),
		from:    from,
		poked:   make(chan struct{}, 1),
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	watchList := utilfeature.DefaultFeatureGate.Enabled(features.WatchList)
	asked := opts.SendInitialEvents != nil && *opts.SendInitialEvents && watchList
	w.initial = asked || opts.SendInitialEvents == nil && from == 0
	w.marked = asked && opts.Predicate.AllowWatchBookmarks
	return w
}

// subscribe starts collecting changes from where the watch begins.
func (w *watching) subscribe() (*store.Watcher, error) {
	now := w.db.Version()
	if w.initial {
		if w.from > now {
			return nil, storage.NewTooLargeResourceVersionError(uint64(w.from), uint64(now), retryAfterSeconds())
		}
		w.from = now
	}
	if w.from == 0 {
		w.from = now
	}
	return w.db.Watch(w.key, w.from)
}

// retryAfterSeconds spreads out clients that were all turned away at once.
func retryAfterSeconds() int { return 1 + rand.IntN(3) }

// Stop ends the watch. ResultChan is closed soon after.
func (w *watching) Stop() { w.cancel() }

// ResultChan delivers the events.
func (w *watching) ResultChan() <-chan watch.Event { return w.result }

func (w *watching) run(source *store.Watcher, err error) {
	defer close(w.result)
	defer w.cancel()
	stop := context.AfterFunc(w.Storage.ctx, w.cancel)
	defer stop()
	if err == nil {
		defer source.Stop()
		err = w.follow(source)
	}
	if err != nil && w.ctx.Err() == nil {
		w.sendError(err)
	}
}

// follow sends what there is, if asked, and then changes until the watch ends.
func (w *watching) follow(source *store.Watcher) error {
	if w.initial {
		if err := w.sendInitial(); err != nil {
			return err
		}
	}
	if w.marked && !w.sendBookmark(w.from, true) {
		return nil
	}
	if w.opts.ProgressNotify {
		defer w.progress.add(w)()
	}
	bookmarks := w.newBookmarks()
	defer bookmarks.stop()
	for {
		due := false
		select {
		case <-source.Ready():
		case <-bookmarks.tick():
			bookmarks.again()
			due = true
		case <-bookmarks.final():
			due = true
		case <-w.poked:
			due = true
		case <-w.ctx.Done():
			return nil
		}
		if err := w.takeAll(source); err != nil || w.ctx.Err() != nil {
			return err
		}
		if due && !w.sendBookmark(w.from, false) {
			return nil
		}
	}
}

// takeAll sends all changes there are.
func (w *watching) takeAll(source *store.Watcher) error {
	for {
		events, upTo, err := source.Take()
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := w.sendChange(e); err != nil || w.ctx.Err() != nil {
				return err
			}
		}
		w.from = upTo
		if len(events) == 0 {
			return nil
		}
	}
}

// sendInitial sends every selected object as added, as of version from.
func (w *watching) sendInitial() error {
	if !w.opts.Recursive {
		entry, _, err := w.db.Get(w.key, w.from)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return w.sendAdded(entry)
	}
	entries, _, err := w.db.List(store.Range{Prefix: w.key}, w.from)
	if err != nil {
		return err
	}
	for entry, err := range entries {
		if err != nil {
			return err
		}
		if err := w.sendAdded(entry); err != nil || w.ctx.Err() != nil {
			return err
		}
	}
	return nil
}

func (w *watching) sendAdded(entry store.Entry) error {
	obj, err := w.decode(w.ctx, entry.Key, entry.Value, entry.Version, nil)
	if err != nil {
		return err
	}
	if w.selects(obj) {
		w.send(watch.Event{Type: watch.Added, Object: obj})
	}
	return nil
}

// sendChange works out what one change is to this watch's selector: an object
// that comes to be selected is added, one no longer selected is deleted with
// its last selected state.
func (w *watching) sendChange(e *store.Event) error {
	var cur, old runtime.Object
	var err error
	if !e.Deleted {
		if cur, err = w.decodeEvent(e, false); err != nil {
			return err
		}
	}
	if e.PrevVersion != 0 && (e.Deleted || !w.all) {
		if old, err = w.decodeEvent(e, true); err != nil {
			return corruptDeletion(e, err)
		}
	}
	isSelected := cur != nil && w.selects(cur)
	wasSelected := old != nil && w.selects(old)
	switch {
	case e.PrevVersion == 0 && isSelected:
		w.send(watch.Event{Type: watch.Added, Object: cur})
	case isSelected && (w.all || wasSelected):
		w.send(watch.Event{Type: watch.Modified, Object: cur})
	case isSelected:
		w.send(watch.Event{Type: watch.Added, Object: cur})
	case wasSelected:
		w.send(watch.Event{Type: watch.Deleted, Object: old})
	}
	return nil
}

func (w *watching) selects(obj runtime.Object) bool {
	if w.all {
		return true
	}
	matched, err := w.pred.Matches(obj)
	return err == nil && matched
}

// decoding is what watchers of one resource share of an event.
type decoding struct {
	storage *Storage
	old     bool
}

type decoded struct {
	obj runtime.Object
	err error
}

// decodeEvent decodes an event's present or former object, both at the event's
// version. The work is done once for all watchers of the resource; each gets a
// copy, as those above may alter it.
func (w *watching) decodeEvent(e *store.Event, old bool) (runtime.Object, error) {
	shared := e.Memo(decoding{storage: w.Storage, old: old}, func() any {
		stored := e.Value
		if old {
			stored = e.Prev
		}
		obj, err := w.decode(context.WithoutCancel(w.ctx), e.Key, stored, e.Version, nil)
		return decoded{obj: obj, err: err}
	}).(decoded)
	if shared.err != nil {
		return nil, shared.err
	}
	return shared.obj.DeepCopyObject(), nil
}

func (w *watching) send(e watch.Event) bool {
	select {
	case w.result <- e:
		return true
	case <-w.ctx.Done():
		return false
	}
}

func (w *watching) sendError(err error) {
	err = watchError(w.key, err)
	status, ok := err.(apierrors.APIStatus)
	if !ok {
		status = apierrors.NewInternalError(err)
	}
	s := status.Status()
	w.send(watch.Event{Type: watch.Error, Object: &s})
}
