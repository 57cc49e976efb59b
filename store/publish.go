package store

import (
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// write hands the changes to badger as one batch: one sync for all. Entries
// carry their own versions and checksums, so each is whole or absent after a
// crash.
func (db *DB) write(b *batch) error {
	wb := db.badger.NewManagedWriteBatch()
	defer wb.Cancel()
	for i := range b.changes {
		if err := b.changes[i].writeTo(wb); err != nil {
			return err
		}
	}
	db.counts.syncs.Add(1)
	return wb.Flush()
}

func (c *change) writeTo(wb *badger.WriteBatch) error {
	key, version := []byte(c.after.Key), uint64(c.after.Version)
	if c.erase {
		return wb.DeleteAt(key, version)
	}
	e := badger.NewEntry(key, c.encoded).WithMeta(c.meta())
	return wb.SetEntryAt(e, version)
}

func (c *change) meta() byte {
	var meta byte
	if !c.after.Live() {
		meta |= metaTombstone
	}
	if c.after.ExpiresMicros != 0 {
		meta |= metaExpires
	}
	return meta
}

// publish makes committed changes visible: reads first, then watches, so that
// who hears of a change can read it.
func (db *DB) publish(changes []change) {
	events := make([]*Event, 0, len(changes))
	bytes := 0
	for i := range changes {
		c := &changes[i]
		db.counts.changed(c)
		bytes += len(c.after.Key) + len(c.encoded)
		if c.pending.kind != padding {
			db.changed.Store(uint64(c.after.Version))
		}
		if c.after.ExpiresMicros != 0 {
			db.ttl.add(expiry{key: c.after.Key, version: c.after.Version, micros: c.after.ExpiresMicros})
		}
		if e := c.event(); e != nil {
			events = append(events, e)
		}
	}
	version := changes[len(changes)-1].after.Version
	db.committed.Store(uint64(version))
	db.events.publish(events, version)
	db.wrote(bytes, version)
}

// event returns what watchers are told: nothing, where no live record was or is.
func (c *change) event() *Event {
	wasLive := c.before != nil && c.before.Live()
	isLive := !c.erase && c.after.Live()
	if !wasLive && !isLive {
		return nil
	}
	e := &Event{Key: c.after.Key, Version: c.after.Version, Deleted: !isLive}
	if isLive {
		e.Value = c.after.Value
	}
	if wasLive {
		e.Prev, e.PrevVersion = c.before.Value, c.before.Version
	}
	return e
}

// writeFailed answers a batch that badger refused. Part of it may have reached
// the memtable all the same; what did is visible to reads and so must also be
// told to watchers, though its writers hear of the failure.
func (db *DB) writeFailed(b *batch, cause error) {
	err := db.space.explain(fmt.Errorf("commit: %w", cause))
	db.log.Error("commit failed", "writes", len(b.changes), "error", err)
	txn := db.badger.NewTransactionAt(uint64(db.last), false)
	defer txn.Discard()
	landed := b.changes[:0:0]
	for _, c := range b.changes {
		if c.landed(txn) {
			landed = append(landed, c)
		}
	}
	if len(landed) > 0 {
		db.publish(landed)
	}
	for i := range b.changes {
		b.changes[i].pending.done <- outcome{err: err}
	}
}

func (c *change) landed(txn *badger.Txn) bool {
	item, err := txn.Get([]byte(c.after.Key))
	if c.erase {
		return errors.Is(err, badger.ErrKeyNotFound)
	}
	return err == nil && Version(item.Version()) == c.after.Version
}
