package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
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

// batch is one group commit in the making.
type batch struct {
	pending []*pending
	bytes   int
	// changes are the writes accepted, in version order.
	changes []change
	// refused are the writes turned down, with the reason.
	refused []refusal
	// newest finds this batch's latest change of a key, which a later write
	// in the same batch must see.
	newest map[string]int
}

// change is an accepted write: what was under the key, and what is now.
type change struct {
	pending *pending
	before  *Entry
	after   Entry
	encoded []byte
	// erase removes the key instead of writing a record.
	erase bool
}

type refusal struct {
	pending *pending
	err     error
}

func (b *batch) answerRefused() {
	for _, r := range b.refused {
		r.pending.done <- outcome{err: r.err}
	}
}

func (b *batch) reset() {
	clear(b.pending)
	clear(b.changes)
	clear(b.refused)
	b.pending, b.changes, b.refused, b.bytes = b.pending[:0], b.changes[:0], b.refused[:0], 0
	if b.newest == nil {
		b.newest = make(map[string]int)
	}
	clear(b.newest)
}

func (b *batch) add(p *pending) {
	b.pending = append(b.pending, p)
	b.bytes += len(p.update.Key) + len(p.update.Value) + recordOverhead
}

func (b *batch) refuse(err error) {
	for _, p := range b.pending {
		p.done <- outcome{err: err}
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

// decide checks one write's expectation and turns it into a change.
func (db *DB) decide(b *batch, txn *badger.Txn, p *pending) error {
	u := &p.update
	if p.kind == padding {
		db.tick()
		b.note(change{pending: p, after: Entry{Key: u.Key, Version: db.last}, encoded: u.Value})
		return nil
	}
	before, err := db.current(b, txn, u.Key)
	if err != nil {
		return err
	}
	if p.kind != userUpdate {
		if before != nil && before.Version == u.Expect {
			db.erase(b, p, before)
			return nil
		}
		return ErrNotFound
	}
	live := before != nil && before.Live()
	if err := expect(u, before, live); err != nil {
		return err
	}
	db.apply(b, p, before)
	return nil
}

func expect(u *Update, before *Entry, live bool) error {
	switch {
	case u.Expect == Any && u.Delete && !live:
		return ErrNotFound
	case u.Expect == Any:
		return nil
	case u.Expect == Absent && !live:
		if u.Delete {
			return ErrNotFound
		}
		return nil
	case live && before.Version == u.Expect:
		return nil
	}
	conflict := &ConflictError{Key: u.Key, Expected: u.Expect}
	if live {
		conflict.Current = before
	}
	return conflict
}

// current returns the record under key, tombstones included, as this batch
// will leave it.
func (db *DB) current(b *batch, txn *badger.Txn, key string) (*Entry, error) {
	if i, ok := b.newest[key]; ok {
		if b.changes[i].erase {
			return nil, nil
		}
		after := b.changes[i].after // the batch is reused, what is handed out is kept
		return &after, nil
	}
	e, err := getEntry(txn, key)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &e, nil
}

func (db *DB) apply(b *batch, p *pending, before *Entry) {
	u := &p.update
	db.tick()
	r := Record{
		UID:          u.UID,
		CausalLength: nextCausalLength(before, u.Delete),
		Stamps:       []Stamp{{Time: db.hlc, Actor: db.actor}},
		Value:        u.Value,
	}
	if u.Delete {
		r.UID, r.Value = tombstoneUID(before.UID), nil
	} else {
		r.Born = born(before, &r)
		r.ExpiresMicros = db.expires(u.TTL)
	}
	encoded := AppendRecord(make([]byte, 0, recordOverhead+len(r.UID)+len(r.Value)), &r)
	// Keep our own copy of the value, not the caller's buffer.
	r.Value = encoded[len(encoded)-len(r.Value):]
	b.note(change{
		pending: p,
		before:  before,
		after:   Entry{Key: u.Key, Version: db.last, Record: r},
		encoded: encoded,
	})
}

// born carries an object's birth over an update; another uid is another life.
func born(before *Entry, r *Record) Stamp {
	if before != nil && before.Live() && before.UID == r.UID {
		return before.Born
	}
	return r.Stamps[0]
}

func (db *DB) expires(ttl time.Duration) uint64 {
	if ttl <= 0 {
		return 0
	}
	return microseconds(db.opts.Clock.Now().Add(ttl))
}

// erase takes a key away for good. The change has no record; after carries the
// version of the removal.
func (db *DB) erase(b *batch, p *pending, before *Entry) {
	db.tick()
	b.note(change{
		pending: p,
		before:  before,
		after:   Entry{Key: p.update.Key, Version: db.last, Record: Record{UID: before.UID}},
		erase:   true,
	})
}

func (b *batch) note(c change) {
	b.newest[c.after.Key] = len(b.changes)
	b.changes = append(b.changes, c)
}

// tick advances both clocks. The stamp's physical part never passes the
// version's, so the newest version on disk bounds the stamps on disk.
func (db *DB) tick() {
	db.last = db.opts.Versions.Next(db.last)
	db.hlc = db.hlc.Tick(db.opts.Clock.Now())
}

// nextCausalLength: a put makes it odd, a delete even, and neither shortens it.
func nextCausalLength(before *Entry, del bool) uint64 {
	var length uint64
	if before != nil {
		length = before.CausalLength
	}
	if wantLive := !del; wantLive != (length&1 == 1) {
		length++
	}
	return length
}

// tombstoneUID keeps what fits a tombstone's 64 bytes: any UUID does.
func tombstoneUID(uid string) string {
	const longest = 16
	if _, ok := parseUUID(uid); ok || len(uid) <= longest {
		return uid
	}
	return ""
}

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
