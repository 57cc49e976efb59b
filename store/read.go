package store

import (
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// Latest as a read's version means the newest committed one.
const Latest Version = 0

// Get returns the live record under key as of version at, and the version
// read. A missing record gives ErrNotFound (the version is valid then too).
func (db *DB) Get(key string, at Version) (Entry, Version, error) {
	at, err := db.readVersion(at)
	if err != nil {
		return Entry{}, 0, err
	}
	txn := db.badger.NewTransactionAt(uint64(at), false)
	defer txn.Discard()
	e, err := getEntry(txn, key)
	if err != nil {
		return Entry{}, at, err
	}
	if !e.Live() {
		return Entry{}, at, ErrNotFound
	}
	return e, at, nil
}

// readVersion resolves and checks the version a read asks for.
func (db *DB) readVersion(at Version) (Version, error) {
	committed := db.Version()
	switch {
	case at == Latest:
		return committed, nil
	case at > committed:
		return 0, fmt.Errorf("read at version %s: %w (%s)", at, ErrFuture, committed)
	case at < db.Horizon():
		return 0, fmt.Errorf("read at version %s: %w (since %s)", at, ErrExpired, db.Horizon())
	}
	return at, nil
}

// getEntry reads a record, tombstones included.
func getEntry(txn *badger.Txn, key string) (Entry, error) {
	item, err := txn.Get([]byte(key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return Entry{}, ErrNotFound
	}
	if err != nil {
		return Entry{}, fmt.Errorf("read %s: %w", key, err)
	}
	b, err := item.ValueCopy(nil)
	if err != nil {
		return Entry{}, fmt.Errorf("read %s: %w", key, err)
	}
	r, err := decodeStored(b)
	if err != nil {
		return Entry{}, fmt.Errorf("read %s: %w", key, err)
	}
	return Entry{Key: key, Version: Version(item.Version()), Record: r}, nil
}

// Range names the keys of a list: those with the prefix, from Start on.
type Range struct {
	Prefix string
	// Start, if set, is the first key considered; it has the prefix.
	Start string
}

// List reads the live records of r in key order as of version at, which it
// returns resolved. The sequence stops at the first error. An entry's Value is
// valid only until the next one is asked for.
func (db *DB) List(r Range, at Version) (iter.Seq2[Entry, error], Version, error) {
	at, err := db.readVersion(at)
	if err != nil {
		return nil, 0, err
	}
	return func(yield func(Entry, error) bool) {
		txn := db.badger.NewTransactionAt(uint64(at), false)
		defer txn.Discard()
		scan(txn, r, func(item *badger.Item) bool {
			e, ok, err := liveEntry(item)
			if err != nil {
				yield(Entry{}, err)
				return false
			}
			return !ok || yield(e, nil)
		})
	}, at, nil
}

// Count counts the live records of r as of version at, reading keys alone.
func (db *DB) Count(r Range, at Version) (int64, error) {
	var n int64
	err := db.visitLive(r, at, func(*badger.Item) error {
		n++
		return nil
	})
	return n, err
}

// Measure is Count that also adds up the sizes of the values.
func (db *DB) Measure(r Range, at Version) (count, bytes int64, err error) {
	err = db.visitLive(r, at, func(item *badger.Item) error {
		e, _, err := liveEntry(item)
		count++
		bytes += int64(len(e.Value))
		return err
	})
	return count, bytes, err
}

func (db *DB) visitLive(r Range, at Version, visit func(*badger.Item) error) error {
	at, err := db.readVersion(at)
	if err != nil {
		return err
	}
	txn := db.badger.NewTransactionAt(uint64(at), false)
	defer txn.Discard()
	scan(txn, r, func(item *badger.Item) bool {
		if item.UserMeta()&metaTombstone == 0 {
			err = visit(item)
		}
		return err == nil
	})
	return err
}

// scan visits the newest entry of every key in r, without fetching values,
// until visit returns false.
func scan(txn *badger.Txn, r Range, visit func(*badger.Item) bool) {
	opts := badger.DefaultIteratorOptions
	opts.PrefetchValues = false
	opts.Prefix = []byte(r.Prefix)
	it := txn.NewIterator(opts)
	defer it.Close()
	start := r.Start
	if !strings.HasPrefix(start, r.Prefix) {
		start = r.Prefix
	}
	for it.Seek([]byte(start)); it.Valid(); it.Next() {
		if !visit(it.Item()) {
			return
		}
	}
}

// liveEntry decodes an iterator's item; ok is false for tombstones.
func liveEntry(item *badger.Item) (e Entry, ok bool, err error) {
	if item.UserMeta()&metaTombstone != 0 {
		return Entry{}, false, nil
	}
	key := string(item.Key())
	err = item.Value(func(b []byte) error {
		e.Record, err = decodeStored(b)
		return err
	})
	if err != nil {
		return Entry{}, false, fmt.Errorf("read %s: %w", key, err)
	}
	e.Key, e.Version = key, Version(item.Version())
	return e, true, nil
}
