package store

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"
)

// expiry says when one version of a record ends.
type expiry struct {
	key     string
	version Version
	micros  uint64
}

// expiries is what has a time to live, soonest first. An entry overwritten
// since is found out when its time comes: its version no longer matches.
type expiries struct {
	mu sync.Mutex
	// soonest is guarded by mu.
	soonest expiryHeap
	// changed has a token when the first entry may have changed.
	changed chan struct{}
}

func newExpiries() *expiries { return &expiries{changed: make(chan struct{}, 1)} }

func (x *expiries) add(e expiry) {
	x.mu.Lock()
	heap.Push(&x.soonest, e)
	first := x.soonest[0] == e
	x.mu.Unlock()
	if !first {
		return
	}
	select {
	case x.changed <- struct{}{}:
	default:
	}
}

// due removes and returns what has ended by micros, at most limit, and when the
// next one ends (0: none).
func (x *expiries) due(micros uint64, limit int) (ended []expiry, next uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.soonest) > 0 && x.soonest[0].micros <= micros && len(ended) < limit {
		ended = append(ended, heap.Pop(&x.soonest).(expiry))
	}
	if len(x.soonest) > 0 {
		next = x.soonest[0].micros
	}
	return ended, next
}

func (x *expiries) len() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.soonest)
}

type expiryHeap []expiry

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].micros < h[j].micros }
func (h expiryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *expiryHeap) Push(e any)        { *h = append(*h, e.(expiry)) }
func (h *expiryHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = expiry{}
	*h = old[:len(old)-1]
	return last
}

// ended is what becomes of a record when its time is over: the tombstone of its
// life, the same on every peer, so that it needs no dot. It keeps the time, by
// which it is told from a deletion. Where a peer that has it is sent a record
// that is outdone by it, such as one whose time somebody prolonged too late, it
// gives it a dot all the same, and all come to have it: an object ends for all
// once it has ended for one. It is reaped like others when it is stable, as all
// have the record by then, and so its end. Were it taken away at once, a peer
// that never saw it could keep what is older.
func ended(r *Record) Record {
	s := r.Stamp()
	return Record{
		UID: tombstoneUID(r.UID), CausalLength: r.CausalLength + 1, ExpiresMicros: r.ExpiresMicros,
		Stamps: []Stamp{{Time: s.Time, Actor: s.Actor}},
	}
}

// endedBy is r, or what has become of it.
func endedBy(now uint64, r Record) Record {
	if r.Live() && r.ExpiresMicros != 0 && r.ExpiresMicros <= now {
		return ended(&r)
	}
	return r
}

const (
	// maxExpiryBatch ends at most this many records per group commit.
	maxExpiryBatch = 128
	// expiryRetry is how long to leave expired records when writing fails.
	expiryRetry = time.Second
	// maxExpiryWait rereads the clock now and then, in case it was set.
	maxExpiryWait = 10 * time.Second
)

// expireLoop ends records whose time has come.
func (db *DB) expireLoop() {
	for {
		now := microseconds(db.opts.Clock.Now())
		ended, next := db.ttl.due(now, maxExpiryBatch)
		wait := maxExpiryWait
		switch {
		case !db.endRecords(ended):
			wait = expiryRetry
		case next != 0 && next <= now:
			continue
		case next != 0:
			wait = min(wait, time.Duration(next-now)*time.Microsecond)
		}
		select {
		case <-db.opts.Clock.After(wait):
		case <-db.ttl.changed:
		case <-db.closing:
			return
		}
	}
}

// endRecords makes tombstones of them; those that could not be written are kept for later.
func (db *DB) endRecords(ended []expiry) bool {
	failed := db.eraseAll(endOfLife, ended)
	for _, e := range failed {
		db.ttl.add(e)
	}
	return len(failed) == 0
}

// eraseAll queues all removals at once, so that they share a sync, and returns
// those that failed. A record that changed meanwhile is not a failure.
func (db *DB) eraseAll(kind pendingKind, keys []expiry) (failed []expiry) {
	done := make(chan struct{}, len(keys))
	errs := make([]error, len(keys))
	for i, e := range keys {
		go func() {
			_, errs[i] = db.submit(context.Background(), &pending{
				kind:   kind,
				update: Update{Key: e.key, Expect: e.version, Delete: true},
				done:   make(chan outcome, 1),
			})
			done <- struct{}{}
		}()
	}
	for range keys {
		<-done
	}
	for i, err := range errs {
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrClosed) {
			failed = append(failed, keys[i])
		}
	}
	return failed
}

// Expires returns when the record ends by itself, the zero time for never.
func (r *Record) Expires() time.Time {
	if r.ExpiresMicros == 0 {
		return time.Time{}
	}
	return epoch2024.Add(time.Duration(r.ExpiresMicros) * time.Microsecond)
}
