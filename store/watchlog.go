package store

import (
	"fmt"
	"sort"
	"strings"
	"sync"
)

// Event is one change. Events are shared between watchers: nobody may alter
// one or the bytes it holds.
type Event struct {
	Key     string
	Version Version
	// Deleted: there is no live record any more; Prev is what it was.
	Deleted bool
	Value   []byte
	// Prev and PrevVersion are the live record replaced, zero if there was
	// none: then the event is a creation.
	Prev        []byte
	PrevVersion Version

	memo memo
}

// Limits of what the log keeps in memory beside the bare list of changes.
const (
	// recentEvents and recentBytes bound the newest events kept whole. Older
	// ones, wanted only by watchers that lag, are read back from disk.
	recentEvents = 256
	recentBytes  = 1 << 20
	// firstRing is the ring's size to begin with.
	firstRing = 1024
)

// change of one key, as the log remembers it: enough to read the event back.
type logged struct {
	key         string
	version     Version
	prevVersion Version
	deleted     bool
	// whole is the event itself while it is recent.
	whole *Event
}

// watchLog keeps the latest changes in a ring and tells watchers of new ones.
// A watcher's backlog is a list of positions in the ring, so that a slow one
// costs 8 bytes per event, never blocks the others, and is ended when the ring
// has moved past its oldest position.
type watchLog struct {
	mu sync.Mutex
	// All below are guarded by mu. Position p is in ring[p%len(ring)] for
	// first <= p < next; whole events are kept from position recent on.
	// The ring starts small and grows to limit.
	ring                []logged
	limit               int
	first, recent, next uint64
	recentSize          int
	// floor is the oldest version a watch may start from: the version of the
	// last change dropped, or where the log began.
	floor Version
	// published is the newest version told.
	published Version
	// watchers by what they watch: a prefix that ends in a slash, or a key.
	watchers map[string]map[*Watcher]struct{}
	count    int
	ended    error
}

func newWatchLog(limit int) *watchLog {
	return &watchLog{
		ring:     make([]logged, min(limit, firstRing)),
		limit:    limit,
		watchers: make(map[string]map[*Watcher]struct{}),
	}
}

// reset starts the log at version v.
func (l *watchLog) reset(v Version) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.floor, l.published = v, v
}

// publish appends events, in version order, and says that all up to version
// are told.
func (l *watchLog) publish(events []*Event, version Version) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		l.append(e)
		l.dispatch(e.Key, l.next-1)
	}
	l.published = version
	l.trimRecent()
}

func (l *watchLog) append(e *Event) {
	if l.next-l.first == uint64(len(l.ring)) {
		l.makeRoom()
	}
	*l.at(l.next) = logged{key: e.Key, version: e.Version, prevVersion: e.PrevVersion, deleted: e.Deleted, whole: e}
	l.next++
	l.recentSize += len(e.Value) + len(e.Prev)
}

func (l *watchLog) makeRoom() {
	if len(l.ring) == l.limit {
		l.dropFirst()
		return
	}
	old := l.ring
	l.ring = make([]logged, min(2*len(old), l.limit))
	for p := l.first; p < l.next; p++ {
		*l.at(p) = old[p%uint64(len(old))]
	}
}

func (l *watchLog) at(position uint64) *logged { return &l.ring[position%uint64(len(l.ring))] }

func (l *watchLog) dropFirst() {
	if l.recent == l.first {
		l.dropWhole()
	}
	l.floor = l.at(l.first).version
	*l.at(l.first) = logged{}
	l.first++
}

func (l *watchLog) trimRecent() {
	for l.recent < l.next && (l.next-l.recent > recentEvents || l.recentSize > recentBytes) {
		l.dropWhole()
	}
}

func (l *watchLog) dropWhole() {
	slot := l.at(l.recent)
	l.recentSize -= len(slot.whole.Value) + len(slot.whole.Prev)
	slot.whole = nil
	l.recent++
}

// dispatch notes position with everyone who watches key or a prefix of it.
func (l *watchLog) dispatch(key string, position uint64) {
	for end := 0; ; {
		slash := strings.IndexByte(key[end:], '/')
		if slash < 0 {
			break
		}
		end += slash + 1
		l.note(key[:end], position)
	}
	l.note(key, position)
}

func (l *watchLog) note(watched string, position uint64) {
	for w := range l.watchers[watched] {
		w.backlog = append(w.backlog, position)
		w.wake()
	}
}

// compact forgets changes up to version v; nobody may start from before it.
func (l *watchLog) compact(v Version) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.first < l.next && l.at(l.first).version <= v {
		l.dropFirst()
	}
	l.floor = max(l.floor, v)
}

// end makes all watches, also later ones, fail with err.
func (l *watchLog) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = err
	for _, set := range l.watchers {
		for w := range set {
			w.wake()
		}
	}
}

// subscribe registers a watcher whose backlog is what happened after from.
func (l *watchLog) subscribe(w *Watcher, from Version) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended != nil {
		return l.ended
	}
	if from < l.floor {
		return fmt.Errorf("watch %s from version %s: %w (since %s)", w.watched, from, ErrExpired, l.floor)
	}
	held := int(l.next - l.first)
	start := l.first + uint64(sort.Search(held, func(i int) bool {
		return l.at(l.first+uint64(i)).version > from
	}))
	for p := start; p < l.next; p++ {
		if w.matches(l.at(p).key) {
			w.backlog = append(w.backlog, p)
		}
	}
	set := l.watchers[w.watched]
	if set == nil {
		set = make(map[*Watcher]struct{})
		l.watchers[w.watched] = set
	}
	set[w] = struct{}{}
	l.count++
	w.wake()
	return nil
}

func (l *watchLog) unsubscribe(w *Watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := l.watchers[w.watched]
	if _, ok := set[w]; !ok {
		return
	}
	delete(set, w)
	l.count--
	if len(set) == 0 {
		delete(l.watchers, w.watched)
	}
	w.backlog = nil
}

// take moves up to limit changes out of w's backlog. upTo is the version whose
// changes w has all seen once it has handled these.
func (l *watchLog) take(w *Watcher, limit int) (changes []logged, upTo Version, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended != nil {
		return nil, 0, l.ended
	}
	if len(w.backlog) == 0 {
		return nil, l.published, nil
	}
	if w.backlog[0] < l.first {
		return nil, 0, fmt.Errorf("watch %s: fell %d changes behind: %w", w.watched, l.next-w.backlog[0], ErrExpired)
	}
	n := min(limit, len(w.backlog))
	changes = make([]logged, n)
	for i, p := range w.backlog[:n] {
		changes[i] = *l.at(p)
	}
	if n < len(w.backlog) {
		w.backlog = w.backlog[n:]
		w.wake()
		return changes, changes[n-1].version, nil
	}
	// Let a backlog that grew large go; keep a small one for reuse.
	if w.backlog = w.backlog[:0]; cap(w.backlog) > recentEvents {
		w.backlog = nil
	}
	return changes, l.published, nil
}
