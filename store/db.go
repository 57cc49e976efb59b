package store

import (
	"context"
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
	// Fields merges single fields; without it the later write wins whole.
	Fields FieldMerger
	// Published is called by the committer with this peer's own writes after
	// they were synced, in order. It must not block.
	Published func([]Delta)
	// Displaced is told when of two objects made independently under one name
	// one had to go. It must not block.
	Displaced func(key string, kept, lost Record)
	// Joining: Dir, if new, is that of a peer which joins a cell.
	Joining bool
	// HistoryWindow is how long overwritten versions stay readable, for exact
	// lists and the pages of long ones. Default 5 minutes, as with etcd.
	HistoryWindow time.Duration
	// WatchWindowEvents is how many changes a watcher may lag behind before
	// it must list again. Default 32,768.
	WatchWindowEvents int
	// Keys encrypt what is on disk: the first from now on, the others if it was
	// not the first until now. Of KeyBytes each; without any, nothing is encrypted.
	Keys [][]byte
	// MinFreeBytes of disk are kept free by refusing writes. Default 128 MiB.
	MinFreeBytes uint64
	// Short is called by Open with the bytes that are free when they are fewer
	// than MinFreeBytes, before anything is given up to make room: who fills the
	// disk can be held up first.
	Short func(free uint64)
	// Frees tells a value whose writing makes room, as of an object that is being
	// deleted: it is taken, like a deletion, while other writes are refused for
	// want of space. It may be called from any goroutine.
	Frees func(key string, value []byte) bool
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
	keys   *keyring
	lock   *dirLock
	space  *spaceGuard
	// witness is the committer's.
	witness *witness
	// replica is the committer's, but for what it says may be called any time.
	replica *Replica
	events  *watchLog
	ttl     *expiries

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
	// lost has who showed that this disk lost writes.
	lost chan Actor
	// filled has a token when another memtable may have filled.
	filled chan struct{}

	// compacting serialises Compact.
	compacting sync.Mutex

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
		lost:    make(chan Actor, 1),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.release())
		}
	}()
	if db.space, err = newSpaceGuard(o.Dir, o.MinFreeBytes, o.Logger, o.Short); err != nil {
		return nil, err
	}
	if db.keys, err = openKeyring(o.Dir, o.Keys); err != nil {
		return nil, err
	}
	if err := inspect(o, db.keys); err != nil {
		return nil, err
	}
	if db.badger, err = openBadger(o, db.keys, db.log); err != nil {
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
	if err := db.checkUnlisted(); err != nil {
		return nil, err
	}
	db.running.Go(db.commitLoop)
	db.running.Go(db.expireLoop)
	db.running.Go(db.maintainLoop)
	db.running.Go(db.releaseLoop)
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
	if db.witness != nil {
		errs = append(errs, db.witness.file.Close())
	}
	return errors.Join(append(errs, db.lock.release())...)
}

// Version returns the newest version that reads see.
func (db *DB) Version() Version { return Version(db.committed.Load()) }

// Horizon returns the oldest version that can still be read exactly.
func (db *DB) Horizon() Version { return Version(db.horizon.Load()) }

// Compacted returns the version history was last cut at since Open, 0 if it
// was not.
func (db *DB) Compacted() Version { return Version(db.compacted.Load()) }

// recover finds out who we are and where we stopped.
func (db *DB) recover() (err error) {
	disk := &badgerDisk{badger: db.badger, syncs: func() { db.counts.syncs.Add(1) }, wrote: db.space.wrote}
	db.replica, err = OpenReplica(disk, ReplicaOptions{
		Clock: db.opts.Clock, Versions: db.opts.Versions, Tag: db.opts.Tag,
		Joining: db.opts.Joining, Fields: db.opts.Fields, Displaced: db.opts.Displaced, Logger: db.log,
	})
	if err != nil {
		return err
	}
	if err := db.hearWitness(); err != nil {
		return err
	}
	newest := db.replica.last
	db.committed.Store(uint64(newest))
	db.changed.Store(uint64(newest))
	if err := db.scanKeys(); err != nil {
		return err
	}
	if err := db.replica.Settle(); err != nil {
		db.log.Warn("log what a torn commit left", "error", err) // with the next commit, then
	}
	newest = db.replica.last
	db.committed.Store(uint64(newest))
	// What the last run had discarded is not remembered, and its watch log is
	// gone: history starts anew here.
	db.horizon.Store(uint64(newest))
	db.events.reset(newest)
	return nil
}

// hearWitness looks whether this peer wrote more than is there. Then it goes on
// as a new actor: dots it gave out before must not be given out again.
func (db *DB) hearWitness() (err error) {
	if db.witness, err = openWitness(db.opts.Dir); err != nil {
		return err
	}
	db.counts.lostWrites = db.witness.lost(db.replica.Actor(), db.replica.kept)
	if db.counts.lostWrites == 0 {
		return nil
	}
	db.log.Error("this disk has lost writes that were answered; going on as a new actor, and what other peers hold of them comes back; where there are none, restore a backup if they matter",
		"dir", db.opts.Dir, "writes", db.counts.lostWrites, "actor", db.replica.Actor())
	return db.replica.Reincarnate(db.replica.Actor())
}

// scanKeys counts records, finds those with a time to live and has the replica
// take all into account. Of most it reads the digest alone.
func (db *DB) scanKeys() error {
	txn := db.badger.NewTransactionAt(uint64(db.Version()), false)
	defer txn.Discard()
	var failed error
	scan(txn, Range{Prefix: "/"}, func(item *badger.Item) bool {
		failed = db.scanKey(item)
		return failed == nil
	})
	return failed
}

func (db *DB) scanKey(item *badger.Item) error {
	meta, key := item.UserMeta(), string(item.Key())
	err := db.replica.loadRecord(key, meta, Version(item.Version()), func() (value []byte, err error) {
		err = item.Value(func(b []byte) error { value = b; return nil })
		return value, err
	})
	if err != nil {
		return err
	}
	if meta&metaTombstone != 0 {
		db.counts.tombstones.Add(1)
		return nil
	}
	db.counts.records.Add(1)
	if meta&metaExpires == 0 {
		return nil
	}
	return db.restoreExpiry(item)
}

func (db *DB) restoreExpiry(item *badger.Item) error {
	return item.Value(func(b []byte) error {
		r, err := decodeStored(b)
		if err != nil {
			return fmt.Errorf("read %s: %w", item.Key(), err)
		}
		db.ttl.add(expiry{key: string(item.Key()), version: Version(item.Version()), micros: r.ExpiresMicros})
		return nil
	})
}
