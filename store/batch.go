package store

import (
	"errors"
	"time"

	"github.com/dgraph-io/badger/v4"
)

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
