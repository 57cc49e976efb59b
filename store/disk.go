package store

import (
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// Disk is the key-value store below a Replica: badger in a daemon, a fake that
// tears and loses writes in the simulator.
type Disk interface {
	// Get returns the newest value under key; ErrNotFound if there is none.
	Get(key string) (Stored, error)
	// Scan visits the newest values of the keys with a prefix, in key order,
	// until visit returns false. A value is valid until visit returns.
	Scan(prefix string, visit func(Stored) bool) error
	// Commit makes the writes durable, all of them when it returns nil. What a
	// crash leaves of a commit that did not return is a prefix of its writes.
	Commit(writes []Write) error
	// Newest is the largest version committed.
	Newest() Version
}

// Stored is a value as found.
type Stored struct {
	Key     string
	Meta    byte
	Version Version
	Value   []byte
}

// Write is one change of a Disk.
type Write struct {
	Key     string
	Meta    byte
	Version Version
	Value   []byte
	// Erase removes the key.
	Erase bool
}

// badgerDisk is the Disk of a daemon.
type badgerDisk struct {
	badger *badger.DB
	// syncs counts commits.
	syncs func()
	// wrote is told what a commit takes in the memtable, before it is written.
	wrote func(bytes int)
}

// Newest implements Disk.
func (d *badgerDisk) Newest() Version { return Version(d.badger.MaxVersion()) }

// Get implements Disk.
func (d *badgerDisk) Get(key string) (Stored, error) {
	txn := d.badger.NewTransactionAt(uint64(Any), false)
	defer txn.Discard()
	item, err := txn.Get([]byte(key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return Stored{}, ErrNotFound
	}
	if err != nil {
		return Stored{}, fmt.Errorf("read %q: %w", key, err)
	}
	value, err := item.ValueCopy(nil)
	if err != nil {
		return Stored{}, fmt.Errorf("read %q: %w", key, err)
	}
	return Stored{Key: key, Meta: item.UserMeta(), Version: Version(item.Version()), Value: value}, nil
}

// Scan implements Disk.
func (d *badgerDisk) Scan(prefix string, visit func(Stored) bool) error {
	txn := d.badger.NewTransactionAt(uint64(Any), false)
	defer txn.Discard()
	var failed error
	scan(txn, Range{Prefix: prefix}, func(item *badger.Item) bool {
		var more bool
		key := string(item.Key())
		err := item.Value(func(value []byte) error {
			more = visit(Stored{Key: key, Meta: item.UserMeta(), Version: Version(item.Version()), Value: value})
			return nil
		})
		if err != nil {
			failed = fmt.Errorf("read %q: %w", key, err)
		}
		return more && err == nil
	})
	return failed
}

// Commit implements Disk: one sync for all. Entries carry their own versions
// and checksums, and badger replays its log up to the first that is not whole.
func (d *badgerDisk) Commit(writes []Write) error {
	wb := d.badger.NewManagedWriteBatch()
	defer wb.Cancel()
	bytes := 0
	for i := range writes {
		w := &writes[i]
		bytes += len(w.Key) + len(w.Value) + entryOverheadBytes
		var err error
		if w.Erase {
			err = wb.DeleteAt([]byte(w.Key), uint64(w.Version))
		} else {
			err = wb.SetEntryAt(badger.NewEntry([]byte(w.Key), w.Value).WithMeta(w.Meta), uint64(w.Version))
		}
		if err != nil {
			return err
		}
	}
	d.wrote(bytes)
	d.syncs()
	return wb.Flush()
}
