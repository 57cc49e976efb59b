package store

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// Watcher delivers the changes of one key or of all keys under a prefix.
type Watcher struct {
	db      *DB
	watched string
	// backlog holds positions in the log, guarded by the log's mutex.
	backlog []uint64
	// ready has a token when the backlog may have something.
	ready chan struct{}
}

// maxTakeEvents bounds what Take returns at once, so that a lagging watcher
// holds only so many events in memory.
const maxTakeEvents = 256

// Watch delivers changes after version from: of all keys under watched if it
// ends in a slash, else of that key. ErrExpired when the log no longer reaches
// back to from, ErrFuture when from has not been reached. Stop it after use.
func (db *DB) Watch(watched string, from Version) (*Watcher, error) {
	if from > db.Version() {
		return nil, fmt.Errorf("watch %s from version %s: %w (%s)", watched, from, ErrFuture, db.Version())
	}
	w := &Watcher{db: db, watched: watched, ready: make(chan struct{}, 1)}
	if err := db.events.subscribe(w, from); err != nil {
		return nil, err
	}
	return w, nil
}

// Ready delivers when Take may have something new.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Take returns the next changes without waiting, at most maxTakeEvents of them
// in version order, along with the version up to which the watcher has seen
// everything once it has handled them. Without changes that is the newest
// version told. An error ends the watch: ErrExpired when the watcher was too
// slow, or ErrClosed.
func (w *Watcher) Take() ([]*Event, Version, error) {
	changes, upTo, err := w.db.events.take(w, maxTakeEvents)
	if err != nil {
		return nil, 0, err
	}
	events, err := w.db.recall(changes)
	return events, upTo, err
}

// Stop ends the watch; Take must not be called again.
func (w *Watcher) Stop() { w.db.events.unsubscribe(w) }

func (w *Watcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (w *Watcher) matches(key string) bool {
	if strings.HasSuffix(w.watched, "/") {
		return strings.HasPrefix(key, w.watched)
	}
	return key == w.watched
}

// recall turns logged changes into events, reading back from disk what is no
// longer held whole. The history window ends no later than the log's, so both
// the change and what it replaced are still there.
func (db *DB) recall(changes []logged) ([]*Event, error) {
	if len(changes) == 0 {
		return nil, nil
	}
	events := make([]*Event, len(changes))
	for i := range changes {
		c := &changes[i]
		if events[i] = c.whole; c.whole != nil {
			continue
		}
		e, err := db.readBack(c)
		if err != nil {
			return nil, err
		}
		events[i] = e
	}
	return events, nil
}

func (db *DB) readBack(c *logged) (*Event, error) {
	e := &Event{Key: c.key, Version: c.version, Deleted: c.deleted, PrevVersion: c.prevVersion}
	var err error
	if !c.deleted {
		if e.Value, err = db.valueAt(c.key, c.version); err != nil {
			return nil, err
		}
	}
	if c.prevVersion != 0 {
		if e.Prev, err = db.valueAt(c.key, c.prevVersion); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// valueAt reads the value written at exactly version.
func (db *DB) valueAt(key string, version Version) ([]byte, error) {
	txn := db.badger.NewTransactionAt(uint64(version), false)
	defer txn.Discard()
	e, err := getEntry(txn, key)
	switch {
	case errors.Is(err, badger.ErrDBClosed):
		return nil, ErrClosed
	case errors.Is(err, ErrNotFound), err == nil && e.Version != version:
		return nil, fmt.Errorf("read back %s at version %s: %w", key, version, ErrExpired)
	case err != nil:
		return nil, err
	}
	return e.Value, nil
}

// memo remembers what watchers made of an event, so that many of them share
// the work. Few different owners meet one event: a list will do.
type memo struct {
	mu    sync.Mutex
	first *memoSlot
}

type memoSlot struct {
	owner any
	once  sync.Once
	made  any
	next  *memoSlot
}

// Memo returns what build made of the event for owner, which must be
// comparable; build runs once per owner, and others wait for it.
func (e *Event) Memo(owner any, build func() any) any {
	slot := e.memo.slot(owner)
	slot.once.Do(func() { slot.made = build() })
	return slot.made
}

func (m *memo) slot(owner any) *memoSlot {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := m.first; s != nil; s = s.next {
		if s.owner == owner {
			return s
		}
	}
	m.first = &memoSlot{owner: owner, next: m.first}
	return m.first
}
