package store

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Badger is set up for a small footprint: a daemon that idles must not pay for
// a database built to fill a server.
const (
	// memTableBytes: badger allocates about 1.3 times this for each table in
	// memory, and flushes it to disk when full.
	memTableBytes = 4 << 20
	// memTables may wait to be flushed while writes go on.
	memTables = 2
	// valueLogThreshold: longer values go to the value log instead of being
	// rewritten by every compaction. Badger wants it under 15% of a memtable.
	valueLogThreshold = 256 << 10
	// valueLogFileBytes keeps files small, as only whole files are collected.
	valueLogFileBytes = 16 << 20
	baseTableBytes    = 2 << 20
	baseLevelBytes    = 8 << 20
	// compactors: the third one is what rewrites the last level to drop
	// versions nobody can read any more; badger has no other way to start it.
	compactors = 3
)

func openBadger(o Options, log *slog.Logger) (*badger.DB, error) {
	// No compression: blocks then are read where they are mapped and need no
	// cache in memory.
	opts := badger.DefaultOptions(o.Dir).
		WithSyncWrites(true).
		WithNumVersionsToKeep(1).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithMemTableSize(memTableBytes).
		WithNumMemtables(memTables).
		WithValueThreshold(valueLogThreshold).
		WithValueLogFileSize(valueLogFileBytes).
		WithBaseTableSize(baseTableBytes).
		WithBaseLevelSize(baseLevelBytes).
		WithNumCompactors(compactors).
		WithNumGoroutines(1).
		WithLogger(badgerLog{log})
	opts.LmaxCompaction = true
	db, err := badger.OpenManaged(opts)
	if err != nil {
		return nil, fmt.Errorf("open badger in %s: %w", o.Dir, err)
	}
	return db, nil
}

// badgerLog passes on what is worth a person's attention.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(format string, args ...any) {
	l.log.Error("badger", "message", oneLine(format, args))
}

func (l badgerLog) Warningf(format string, args ...any) {
	l.log.Warn("badger", "message", oneLine(format, args))
}

func (badgerLog) Infof(string, ...any)  {}
func (badgerLog) Debugf(string, ...any) {}

func oneLine(format string, args []any) string {
	return strings.TrimSpace(fmt.Sprintf(format, args...))
}
