package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Options says where and how to keep the records. Only Dir is required.
type Options struct {
	// Dir belongs to this database alone. It is created when missing.
	Dir    string
	Logger *slog.Logger
	// Clock defaults to SystemClock.
	Clock Clock
	// Tag is this peer's number, part of every version it issues.
	Tag Tag
	// Versions issues versions; by default from Clock and Tag.
	Versions VersionSource
	// HistoryWindow is how long overwritten versions stay readable, for exact
	// lists and the pages of long ones. Default 5 minutes, as with etcd.
	HistoryWindow time.Duration
	// WatchWindowEvents is how many changes a watcher may lag behind before
	// it must list again. Default 32,768.
	WatchWindowEvents int
	// MinFreeBytes of disk are kept free by refusing writes. Default 128 MiB.
	MinFreeBytes uint64
}

const (
	defaultHistoryWindow = 5 * time.Minute
	// defaultWatchWindow covers 30 s at 1,000 changes a second, several times
	// what a client needs to reconnect; full, it takes about 5 MB.
	defaultWatchWindow = 32_768
	// defaultMinFreeBytes covers flushing every memtable and the compaction
	// that may follow.
	defaultMinFreeBytes = 128 << 20
)

// DB is an open database. Its methods may be called from any goroutine.
type DB struct {
	opts   Options
	log    *slog.Logger
	badger *badger.DB
	lock   *dirLock
	space  *spaceGuard
	actor  Actor
	events *watchLog
	ttl    *expiries

	queue   chan *pending
	closing chan struct{}
	// stopped is closed once no queued write will be looked at any more.
	stopped chan struct{}
	close   sync.Once
	closed  error
	running sync.WaitGroup

	// churn counts bytes written since the tables were last tidied; tidyAfter
	// is the version at which that became worth repeating, 0 before.
	churn     atomic.Int64
	tidyAfter atomic.Uint64
	// filled has a token when another memtable may have filled.
	filled chan struct{}

	// compacting serialises Compact.
	compacting sync.Mutex

	// last and hlc belong to the committer (and to Open before it runs).
	last Version
	hlc  HLC

	// committed is the newest version that reads may see.
	committed atomic.Uint64
	// horizon: versions before it may be gone.
	horizon atomic.Uint64
	// changed is the newest version of a record's change.
	changed atomic.Uint64
	// compacted is the last version that history was cut at since Open.
	compacted atomic.Uint64
	counts    counters
}

// Open opens or creates the database in o.Dir. A directory in use gives a
// *LockedError. ctx bounds the opening, not the database's life.
func Open(ctx context.Context, o Options) (_ *DB, err error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	db := &DB{
		opts:    o,
		log:     o.Logger,
		lock:    lock,
		events:  newWatchLog(o.WatchWindowEvents),
		ttl:     newExpiries(),
		queue:   make(chan *pending, maxBatchWrites),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
		filled:  make(chan struct{}, 1),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.release())
		}
	}()
	if db.space, err = newSpaceGuard(o.Dir, o.MinFreeBytes, o.Logger); err != nil {
		return nil, err
	}
	if db.badger, err = openBadger(o, db.log); err != nil {
		return nil, db.space.explain(err)
	}
	if err := db.space.opened(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open %s: %w", o.Dir, err)
	}
	if err := db.recover(); err != nil {
		return nil, err
	}
	db.running.Go(db.commitLoop)
	db.running.Go(db.expireLoop)
	db.running.Go(db.maintainLoop)
	return db, nil
}

func (o *Options) complete() error {
	if o.Dir == "" {
		return errors.New("open store: no directory given")
	}
	if o.Tag > MaxTag {
		return fmt.Errorf("open store: tag %d, the largest is %d", o.Tag, MaxTag)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = SystemClock{}
	}
	if o.Versions == nil {
		o.Versions = clockVersions{clock: o.Clock, tag: o.Tag}
	}
	if o.HistoryWindow <= 0 {
		o.HistoryWindow = defaultHistoryWindow
	}
	if o.WatchWindowEvents <= 0 {
		o.WatchWindowEvents = defaultWatchWindow
	}
	if o.MinFreeBytes == 0 {
		o.MinFreeBytes = defaultMinFreeBytes
	}
	return nil
}

// Close answers what is queued with ErrClosed, ends all watches and closes
// the files. Only the first call does anything; all return its result.
func (db *DB) Close() error {
	db.close.Do(func() {
		close(db.closing)
		db.running.Wait()
		db.events.end(ErrClosed)
		// Closing flushes the memtable. Without space for that it must not be
		// tried: the records are safe in the log, and the lock ends with us.
		if db.closed = db.space.makeWay(); db.closed == nil {
			db.closed = db.release()
		}
	})
	return db.closed
}

// release gives back what Open took, as far as it got.
func (db *DB) release() error {
	var errs []error
	if db.badger != nil {
		if err := db.badger.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close badger: %w", err))
		}
	}
	if db.space != nil {
		errs = append(errs, db.space.close())
	}
	return errors.Join(append(errs, db.lock.release())...)
}

// Actor returns the name of this peer's incarnation.
func (db *DB) Actor() Actor { return db.actor }

// Version returns the newest version that reads see.
func (db *DB) Version() Version { return Version(db.committed.Load()) }

// Horizon returns the oldest version that can still be read exactly.
func (db *DB) Horizon() Version { return Version(db.horizon.Load()) }

// Compacted returns the version history was last cut at since Open, 0 if it
// was not.
func (db *DB) Compacted() Version { return Version(db.compacted.Load()) }

// keyActor is a key of the store itself; no registry path starts with a zero.
var keyActor = []byte("\x00actor")

// recover finds out who we are and where we stopped.
func (db *DB) recover() error {
	db.last = Version(db.badger.MaxVersion())
	db.committed.Store(uint64(db.last))
	db.changed.Store(uint64(db.last))
	if err := db.loadActor(); err != nil {
		return err
	}
	if err := db.scanKeys(); err != nil {
		return err
	}
	// Stamps never run ahead of versions (see apply), so the last version also
	// bounds the logical clock.
	db.hlc = HLC(uint64(db.last) | (1<<hlcLogicalBits - 1))
	// What the last run had discarded is not remembered, and its watch log is
	// gone: history starts anew here.
	db.horizon.Store(uint64(db.last))
	db.events.reset(db.last)
	return nil
}

func (db *DB) loadActor() error {
	txn := db.badger.NewTransactionAt(uint64(db.last), false)
	defer txn.Discard()
	item, err := txn.Get(keyActor)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return db.createActor()
	}
	if err != nil {
		return fmt.Errorf("read actor: %w", err)
	}
	return item.Value(func(b []byte) error {
		if len(b) != 8 {
			return fmt.Errorf("read actor: %d bytes, expected 8", len(b))
		}
		db.actor = Actor(binary.BigEndian.Uint64(b))
		return nil
	})
}

// createActor also gives an empty database its first version, as no list may
// show version zero.
func (db *DB) createActor() error {
	var id [8]byte
	rand.Read(id[:])
	db.actor = Actor(binary.BigEndian.Uint64(id[:]))
	db.last = db.opts.Versions.Next(db.last)
	txn := db.badger.NewTransactionAt(uint64(db.last), true)
	defer txn.Discard()
	if err := txn.Set(keyActor, id[:]); err != nil {
		return fmt.Errorf("write actor: %w", err)
	}
	if err := txn.CommitAt(uint64(db.last), nil); err != nil {
		return fmt.Errorf("write actor: %w", err)
	}
	db.committed.Store(uint64(db.last))
	return nil
}

// scanKeys counts records and finds those with a time to live. It touches
// keys and, of the latter, values.
func (db *DB) scanKeys() error {
	txn := db.badger.NewTransactionAt(uint64(db.last), false)
	defer txn.Discard()
	opts := badger.DefaultIteratorOptions
	opts.PrefetchValues = false
	opts.Prefix = []byte("/")
	it := txn.NewIterator(opts)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		meta := item.UserMeta()
		if meta&metaTombstone != 0 {
			db.counts.tombstones.Add(1)
			continue
		}
		db.counts.records.Add(1)
		if meta&metaExpires == 0 {
			continue
		}
		if err := db.restoreExpiry(item); err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) restoreExpiry(item *badger.Item) error {
	return item.Value(func(b []byte) error {
		r, err := DecodeRecord(b)
		if err != nil {
			return fmt.Errorf("read %s: %w", item.Key(), err)
		}
		db.ttl.add(expiry{key: string(item.Key()), version: Version(item.Version()), micros: r.ExpiresMicros})
		return nil
	})
}
