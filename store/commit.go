package store

import (
	"cmp"
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
	// deltas are what is merged, adopt what is claimed after it.
	deltas []Delta
	adopt  *checkpoint
	// actor is the one to give up.
	actor Actor
	// answer is what the writer gets.
	answer Entry
	// partly is why the rest of what this is a part of was refused.
	partly error
	done   chan outcome
}

type pendingKind byte

const (
	userUpdate pendingKind = iota
	// endOfLife makes a tombstone of an expired record, if it still has
	// the expected version.
	endOfLife
	// reap removes a tombstone, if it still has the expected version.
	reap
	// padding is a write of the store's own that nobody reads.
	padding
	// merging takes in other peers' deltas.
	merging
	// adopting notes a vector as held.
	adopting
	// releasing merges deltas held back whose time has come.
	releasing
	// reincarnating draws a new actor; it is committed alone.
	reincarnating
	// clearing removes what a peer that joins was given so far.
	clearing
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
			if p.kind != reincarnating {
				p = db.drainQueue(&b)
			} else {
				p = nil
			}
			db.commit(&b)
			if p != nil {
				b.reset()
				b.add(p)
				db.commit(&b)
			}
		case <-db.closing:
			db.refuseQueue()
			return
		}
	}
}

// drainQueue adds what waits. What must be committed alone it returns.
func (db *DB) drainQueue(b *batch) (alone *pending) {
	for len(b.pending) < maxBatchWrites && b.bytes < maxBatchBytes {
		select {
		case p := <-db.queue:
			if p.kind == reincarnating {
				return p
			}
			b.add(p)
		default:
			return nil
		}
	}
	return nil
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

// commit has the replica decide and write the batch with one sync, and only
// then shows it to readers and watchers, and answers.
func (db *DB) commit(b *batch) {
	if err := db.space.check(b.bytes); err != nil {
		if !b.keepFreeing(db.opts.Frees, err) {
			return
		}
		if !db.space.checkFreeing(b.bytes, b.writes()) {
			b.refuse(err)
			return
		}
	}
	// A refusal may rest on a write of this very batch, so it is answered when
	// that write is there to be seen.
	defer b.answerRefused()
	err := db.replica.commit(b)
	if err != nil {
		err = db.space.explain(err)
		db.log.Error("commit failed", "writes", len(b.pending), "error", err)
	}
	// What a failed commit left on disk is visible to reads, and so must be told
	// to watchers also.
	db.publish(b)
	if err == nil {
		db.witness.note(db.replica.actor, db.replica.onDisk())
		db.spread(b)
	}
	refused := make(map[*pending]bool, len(b.refused))
	for _, r := range b.refused {
		refused[r.pending] = true
	}
	for _, p := range b.pending {
		if !refused[p] {
			p.done <- outcome{entry: p.answer, err: cmp.Or(err, p.partly)}
		}
	}
}
