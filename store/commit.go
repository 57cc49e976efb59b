package store

import (
	"context"
	"fmt"
	"time"
)

// Update is one write: put a value under a key, or delete the key.
type Update struct {
	Key string
	// Expect is the version the key must have for the write to happen; Absent
	// when it must have no live record, Any when that does not matter.
	Expect Version
	Delete bool
	Value  []byte
	// UID is the object's; a put needs it to tell lives of a name apart.
	UID string
	// TTL, if positive, ends the record by itself that much later.
	TTL time.Duration
}

const (
	// Absent expects that the key has no live record.
	Absent Version = 0
	// Any expects nothing.
	Any Version = ^Version(0)
)

// Limits of one group commit: what the writers that queued up during the last
// sync bring, at most. Above badger's own batch size it would sync twice.
const (
	maxBatchWrites = 512
	maxBatchBytes  = memTableBytes / 8
)

// badger's user byte of every entry, so that counting needs no values.
const (
	metaTombstone = 1 << 0
	metaExpires   = 1 << 1
)

// Entry is a record as found: under which key, and since which version.
type Entry struct {
	Key     string
	Version Version
	Record
}

// pending is a write on its way through the committer.
type pending struct {
	update Update
	// kind says what beside an ordinary update this is.
	kind pendingKind
	done chan outcome
}

type pendingKind byte

const (
	userUpdate pendingKind = iota
	// endOfLife removes an expired record without a tombstone, if it still has
	// the expected version.
	endOfLife
	// reap removes a tombstone, if it still has the expected version.
	reap
	// padding is a write of the store's own that nobody reads.
	padding
)

type outcome struct {
	entry Entry
	err   error
}

// Update commits u and returns the record written (for a delete: the one
// deleted, at the version of the deletion). It returns after the sync. The
// errors to branch on are *ConflictError, *TooLargeError, *NoSpaceError,
// ErrNotFound (an unconditional delete of nothing) and ErrClosed. When ctx
// ends first, the write may or may not happen.
func (db *DB) Update(ctx context.Context, u Update) (Entry, error) {
	if err := checkUpdate(&u); err != nil {
		return Entry{}, err
	}
	return db.submit(ctx, &pending{update: u, done: make(chan outcome, 1)})
}

func checkUpdate(u *Update) error {
	if err := checkKey(u.Key); err != nil {
		return err
	}
	if len(u.Value) > MaxValueBytes {
		return &TooLargeError{Key: u.Key, Size: len(u.Value), Limit: MaxValueBytes}
	}
	if len(u.UID) > maxUIDBytes {
		return fmt.Errorf("update %s: uid of %d bytes, more than the limit of %d", u.Key, len(u.UID), maxUIDBytes)
	}
	return nil
}

func (db *DB) submit(ctx context.Context, p *pending) (Entry, error) {
	select {
	case db.queue <- p:
	case <-ctx.Done():
		return Entry{}, ctx.Err()
	case <-db.closing:
		return Entry{}, ErrClosed
	}
	select {
	case out := <-p.done:
		return out.entry, out.err
	case <-ctx.Done():
		return Entry{}, ctx.Err()
	case <-db.stopped:
	}
	// The write slipped into the queue while the committer was leaving; it may
	// have been answered all the same.
	select {
	case out := <-p.done:
		return out.entry, out.err
	default:
		return Entry{}, ErrClosed
	}
}

// commitLoop is the only writer. While it syncs one batch the next queues up.
func (db *DB) commitLoop() {
	defer close(db.stopped)
	var b batch
	for {
		select {
		case p := <-db.queue:
			b.reset()
			b.add(p)
			db.drainQueue(&b)
			db.commit(&b)
		case <-db.closing:
			db.refuseQueue()
			return
		}
	}
}

func (db *DB) drainQueue(b *batch) {
	for len(b.pending) < maxBatchWrites && b.bytes < maxBatchBytes {
		select {
		case p := <-db.queue:
			b.add(p)
		default:
			return
		}
	}
}

// refuseQueue answers what was queued when closing began.
func (db *DB) refuseQueue() {
	for {
		select {
		case p := <-db.queue:
			p.done <- outcome{err: ErrClosed}
		default:
			return
		}
	}
}

// commit decides each write of the batch in turn, writes the accepted ones
// with one sync, and only then shows them to readers and watchers.
func (db *DB) commit(b *batch) {
	if err := db.space.check(b.bytes); err != nil {
		b.refuse(err)
		return
	}
	txn := db.badger.NewTransactionAt(uint64(db.last), false)
	for _, p := range b.pending {
		if err := db.decide(b, txn, p); err != nil {
			b.refused = append(b.refused, refusal{p, err})
		}
	}
	txn.Discard()
	// A refusal may rest on a write of this very batch, so it is answered when
	// that write is there to be seen.
	defer b.answerRefused()
	if len(b.changes) == 0 {
		return
	}
	if err := db.write(b); err != nil {
		db.writeFailed(b, err)
		return
	}
	db.publish(b.changes)
	for i := range b.changes {
		c := &b.changes[i]
		c.pending.done <- outcome{entry: c.after}
	}
}
