package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	// maintainInterval is how often history is cut and space looked after.
	maintainInterval = 30 * time.Second
	// valueLogGCEvery so many rounds, the value log is collected: each run
	// samples a file, which costs reads.
	valueLogGCEvery = 10
	// valueLogGarbage is the share of a value log file that must be garbage
	// for it to be rewritten.
	valueLogGarbage = 0.5
	// maxValueLogFiles collected in one round.
	maxValueLogFiles = 8
	// maxReapBatch tombstones are reaped per group commit.
	maxReapBatch = 128
)

// maintainLoop cuts history to its window, reaps tombstones and returns space.
func (db *DB) maintainLoop() {
	due := db.opts.Clock.After(maintainInterval)
	for round := 1; ; {
		select {
		case <-due:
			due = db.opts.Clock.After(maintainInterval)
			db.maintain(round)
			round++
		case <-db.filled:
			db.compactTables()
		case <-db.closing:
			return
		}
	}
}

func (db *DB) maintain(round int) {
	db.cutHistory()
	db.reapTombstones()
	db.compactTables()
	db.tidy()
	db.space.restoreBallast()
	if round%valueLogGCEvery == 0 {
		db.collectValueLog()
	}
}

// cutHistory keeps history to its window. When all of it has left the window
// there is nothing more to cut, and nothing is written.
func (db *DB) cutHistory() {
	if db.Horizon() >= Version(db.changed.Load()) {
		return
	}
	if err := db.Compact(db.windowStart()); err != nil && !errors.Is(err, ErrClosed) {
		db.log.Warn("cut history", "error", err)
	}
}

// windowStart is the version at which the history window begins.
func (db *DB) windowStart() Version {
	start := VersionAt(db.opts.Clock.Now().Add(-db.opts.HistoryWindow), 0)
	return min(start, db.Version())
}

// Compact lets go of versions before v: exact reads and watches from before
// then give ErrExpired. It never goes back. The maintenance does this with a
// window; call it to shorten history at once. It takes up a version itself.
func (db *DB) Compact(v Version) error {
	db.compacting.Lock()
	defer db.compacting.Unlock()
	v = min(v, db.Version())
	if v <= db.Horizon() {
		return nil
	}
	// Badger knows the newest version by what it still holds. The last change
	// may have been a removal, which vanishes with what it removed: leave a
	// mark, or versions could go back after a restart with the clock set back.
	if err := db.writePadding(keyNewest, nil); err != nil {
		return fmt.Errorf("compact to version %s: %w", v, err)
	}
	db.horizon.Store(uint64(v))
	db.compacted.Store(uint64(v))
	// The log goes first: it reads events back from disk, with what they
	// replaced.
	db.events.compact(v)
	db.badger.SetDiscardTs(uint64(v))
	return nil
}

// reapTombstones removes tombstones older than the history window that every
// member has seen.
func (db *DB) reapTombstones() {
	if db.counts.tombstones.Load() == 0 {
		return
	}
	for {
		old := db.oldTombstones(maxReapBatch)
		if len(old) == 0 {
			return
		}
		if failed := db.eraseAll(reap, old); len(failed) > 0 {
			return
		}
		select {
		case <-db.closing:
			return
		default:
		}
	}
}

func (db *DB) oldTombstones(limit int) []expiry {
	horizon := min(db.Horizon(), db.replica.Stable())
	txn := db.badger.NewTransactionAt(uint64(db.Version()), false)
	defer txn.Discard()
	var old []expiry
	scan(txn, Range{Prefix: "/"}, func(item *badger.Item) bool {
		if item.UserMeta()&metaTombstone != 0 && Version(item.Version()) <= horizon {
			old = append(old, expiry{key: string(item.KeyCopy(nil)), version: Version(item.Version())})
		}
		return len(old) < limit
	})
	return old
}

func (db *DB) collectValueLog() {
	for range maxValueLogFiles {
		err := db.badger.RunValueLogGC(valueLogGarbage)
		switch {
		case err == nil:
		case errors.Is(err, badger.ErrNoRewrite), errors.Is(err, badger.ErrRejected):
			return
		default:
			db.log.Warn("collect value log", "error", err)
			return
		}
	}
}
