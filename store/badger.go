package store

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Badger is set up for a small footprint: a daemon that idles must not pay for
// a database built to fill a server.
const (
	// memTableBytes: badger allocates about 1.3 times this for each table in
	// memory, and flushes it to disk when full.
	memTableBytes = 2 << 20
	// memTables may wait to be flushed while writes go on.
	memTables = 2
	// valueLogThreshold: longer values go to the value log instead of being
	// rewritten by every compaction. Badger wants it under 15% of a memtable.
	valueLogThreshold = 256 << 10
	// valueLogFileBytes keeps files small, as only whole files are collected.
	valueLogFileBytes = 16 << 20
	// tableBytes: badger builds a table in a buffer of twice this, and pools
	// eight of them for some seconds.
	tableBytes = memTableBytes
	// blockBytes holds several objects, else badger's buffers grow by copying; of
	// an encrypted table each read decrypts one.
	blockBytes = 8 << 10
	// baseLevelBytes is so large that there is but one level to merge into.
	baseLevelBytes = 64 << 30
	// maxUnmergedTables is when badger holds writes back until new tables have
	// been merged; see compactTables.
	maxUnmergedTables = 24
)

func badgerOptions(o Options, log *slog.Logger) badger.Options {
	// No compression: blocks then are read where they are mapped and, unless they
	// are encrypted, need no cache in memory.
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
		WithBaseTableSize(tableBytes).
		WithBlockSize(blockBytes).
		WithBaseLevelSize(baseLevelBytes).
		WithNumLevelZeroTablesStall(maxUnmergedTables).
		WithNumCompactors(0).
		WithNumGoroutines(1).
		WithLogger(badgerLog{log})
	opts.TableSizeMultiplier = 1
	return opts
}

// openBadger also makes an error of a panic over what is in the files.
func openBadger(o Options, keys *keyring, log *slog.Logger) (db *badger.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, &DamagedError{filepath.Join(o.Dir, "*"), fmt.Errorf("%.200s", fmt.Sprint(r))}
		}
	}()
	db, err = badger.OpenManaged(keys.apply(badgerOptions(o, log)))
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
	if strings.HasPrefix(format, "%s might be too small") || strings.HasPrefix(format, "Cache life expectancy") {
		return // it is small on purpose, and scans of history pass through it
	}
	l.log.Warn("badger", "message", oneLine(format, args))
}

func (badgerLog) Infof(string, ...any)  {}
func (badgerLog) Debugf(string, ...any) {}

func oneLine(format string, args []any) string {
	return strings.TrimSpace(fmt.Sprintf(format, args...))
}
