package store

import (
	"context"
	"errors"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Badger's own compactors wake 20 times a second each, which costs an idle
// machine half a percent of a core and more, and they compact without asking
// how full the disk is. So they are off, and the store compacts: when enough
// small tables have gathered, and once what was overwritten has left the
// history window, so that its space comes back also when nothing is written
// any more.

const (
	// minNewTables are merged at once: fewer rewrite the old ones too often,
	// more slow down reads.
	minNewTables = 6
	maxNewTables = 16
	// newTablesShare: with much data, wait until the new tables amount to this
	// part of it, which bounds how often each byte is rewritten.
	newTablesShare = 16
	// tidyBytes written since the last time make it worth tidying up.
	tidyBytes = 16 << 20
	// paddingBytes is the size of the writes that fill up a memtable; it must
	// be under valueLogThreshold to stay there.
	paddingBytes = valueLogThreshold - 4096
	// flushPoll and flushPolls bound the wait for a full memtable to become a
	// table.
	flushPoll  = 100 * time.Millisecond
	flushPolls = 100
)

// Keys of the store's own, beside keyActor. Between lowest and highest lie all others, so a
// table that has both overlaps every other.
const (
	keyLowest  = "\x00"
	keyHighest = "\xff"
	keyPadding = "\x00padding"
	keyNewest  = "\x00newest"
)

// wrote notes a commit for the decisions below and wakes the maintenance when
// another memtable may have filled.
func (db *DB) wrote(bytes int, version Version) {
	before := db.churn.Load()
	after := db.churn.Add(int64(bytes))
	if after >= tidyBytes {
		db.tidyAfter.CompareAndSwap(0, uint64(version))
	}
	if before/memTableBytes != after/memTableBytes {
		select {
		case db.filled <- struct{}{}:
		default:
		}
	}
}

// compactTables merges new tables into the old when there are enough of them.
func (db *DB) compactTables() {
	tables, bytes := db.tables()
	enough := min(max(int64(minNewTables), bytes/newTablesShare/memTableBytes), maxNewTables)
	if int64(tables) >= enough {
		db.flatten(bytes)
	}
}

// tables returns how many new tables there are, and the size of all.
func (db *DB) tables() (fresh int, bytes int64) {
	for _, level := range db.badger.Levels() {
		if level.Level == 0 {
			fresh = level.NumTables
		}
		bytes += level.Size
	}
	return fresh, bytes
}

// flatten merges all tables into one level. At worst it needs as much space
// again as they have, which is given back when it is done.
func (db *DB) flatten(bytes int64) {
	free, err := db.space.free()
	if err != nil || free < db.opts.MinFreeBytes/2+uint64(bytes) {
		db.log.Warn("compaction put off, not enough disk space", "freeBytes", free, "needBytes", bytes)
		return
	}
	if err := db.badger.Flatten(1); err != nil && !errors.Is(err, badger.ErrDBClosed) {
		db.log.Warn("compact tables", "error", err)
	}
}

// tidy rewrites all tables without what nobody can read any more, when that
// may be a lot. Badger drops old versions only from tables it merges, merges
// only what overlaps, and turns a memtable into a table only when it is full:
// so it writes the two keys between which all lie, and fills the memtable up.
func (db *DB) tidy() {
	due := Version(db.tidyAfter.Load())
	if due == 0 || db.Horizon() < due {
		return
	}
	db.churn.Store(0)
	db.tidyAfter.Store(0)
	if err := db.rotate(); err != nil {
		db.log.Warn("tidy tables", "error", err)
		return
	}
	_, bytes := db.tables()
	db.flatten(bytes)
	db.collectValueLog()
}

func (db *DB) rotate() error {
	flushed, _ := db.tables()
	pad := make([]byte, paddingBytes)
	for written := 0; written < logBytes; written += paddingBytes {
		for _, key := range []string{keyLowest, keyHighest} {
			if err := db.writePadding(key, nil); err != nil {
				return err
			}
		}
		if err := db.writePadding(keyPadding, pad); err != nil {
			return err
		}
	}
	if err := db.writePadding(keyPadding, nil); err != nil {
		return err
	}
	for range flushPolls {
		if fresh, _ := db.tables(); fresh > flushed {
			return nil
		}
		// Badger's own goroutine is waited for, whatever the injected clock says.
		select {
		case <-time.After(flushPoll):
		case <-db.closing:
			return ErrClosed
		}
	}
	return errors.New("the memtable did not become a table")
}

func (db *DB) writePadding(key string, value []byte) error {
	_, err := db.submit(context.Background(), &pending{
		kind:   padding,
		update: Update{Key: key, Value: value},
		done:   make(chan outcome, 1),
	})
	return err
}
