package store

import (
	"errors"
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
	// dots are to be logged, in the order of the changes that brought them.
	dots []loggedDot
	// brought has, for each of the dots, how many changes there were with it.
	brought []int
	seen    map[Dot]struct{}
	// held are deltas from the future; floor is what it becomes.
	held  []Delta
	floor uint64
	// state is a checkpoint to write; trim are chunks it makes superfluous.
	state *checkpoint
	trim  []Version
	actor Actor // a new one, if not zero
	// due were held back until now.
	due []Delta
	// undo takes back what deciding to become a new actor changed.
	undo func()
	// joined: what a member has was adopted.
	joined bool
}

// change is an accepted write: what was under the key, and what is now.
type change struct {
	kind   pendingKind
	before *Entry
	after  Entry
	// stored is the form on disk.
	stored []byte
	digest Digest
	// erase removes the key instead of writing a record.
	erase bool
	// gone is when before ended where another object takes its name.
	gone Version
	// dot is set where the change is this peer's own.
	dot Dot
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
	clear(b.dots)
	*b = batch{pending: b.pending[:0], changes: b.changes[:0], refused: b.refused[:0], dots: b.dots[:0], brought: b.brought[:0], newest: b.newest, seen: b.seen}
	if b.newest == nil {
		b.newest, b.seen = make(map[string]int), make(map[Dot]struct{})
	}
	clear(b.newest)
	clear(b.seen)
}

func (b *batch) add(p *pending) {
	b.pending = append(b.pending, p)
	b.bytes += p.size()
}

func (p *pending) size() int {
	n := len(p.update.Key) + len(p.update.Value) + recordOverhead
	for i := range p.deltas {
		n += len(p.deltas[i].Key) + len(p.deltas[i].Record.Value) + recordOverhead
	}
	return n
}

// writes is how many changes there may be.
func (b *batch) writes() (n int) {
	for _, p := range b.pending {
		n += max(1, len(p.deltas))
	}
	return n
}

func (b *batch) refuse(err error) {
	for _, p := range b.pending {
		p.done <- outcome{err: err}
	}
}

// empty: there is nothing to write.
func (b *batch) empty() bool {
	return len(b.changes) == 0 && len(b.dots) == 0 && b.state == nil && b.actor == 0
}

func (b *batch) note(c change) {
	b.newest[c.after.Key] = len(b.changes)
	b.changes = append(b.changes, c)
}

// logDot notes a dot together with the changes so far.
func (b *batch) logDot(d Dot, key string) {
	b.dots = append(b.dots, loggedDot{d, key})
	b.brought = append(b.brought, len(b.changes))
	b.seen[d] = struct{}{}
}

// decide checks one write's expectation and turns it into changes.
func (r *Replica) decide(b *batch, p *pending) error {
	switch p.kind {
	case padding:
		b.note(change{kind: padding, after: Entry{Key: p.update.Key, Version: r.tick()}, stored: p.update.Value})
		return nil
	case merging:
		return r.decideMerge(b, p.deltas)
	case releasing:
		return r.decideDue(b)
	case adopting:
		return r.decideAdopt(b, p.adopt)
	case reincarnating:
		return r.decideReincarnate(b, p.actor)
	case clearing:
		return r.decideClear(b)
	}
	u := &p.update
	before, err := r.current(b, u.Key)
	if err != nil {
		return err
	}
	if p.kind != userUpdate {
		switch {
		case before == nil || before.Version != u.Expect:
			return ErrNotFound
		case p.kind == reap:
			r.erase(b, p.kind, before)
		case before.Live():
			b.put(change{kind: endOfLife, before: before}, u.Key, r.tick(), ended(&before.Record))
		}
		return nil
	}
	live := before != nil && before.Live()
	if err := expect(u, before, live); err != nil {
		return err
	}
	p.answer = r.apply(b, u, before)
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
func (r *Replica) current(b *batch, key string) (*Entry, error) {
	if i, ok := b.newest[key]; ok {
		if b.changes[i].erase {
			return nil, nil
		}
		after := b.changes[i].after // the batch is reused, what is handed out is kept
		return &after, nil
	}
	found, err := r.disk.Get(key)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e, err := found.entry()
	if err != nil {
		return nil, err
	}
	return &e, nil
}

// apply makes an accepted write of this peer's own.
func (r *Replica) apply(b *batch, u *Update, before *Entry) Entry {
	version, stamp := r.tick(), r.stamp()
	rec := Record{
		UID:          u.UID,
		CausalLength: r.nextCausalLength(b, before, u),
		Stamps:       []Stamp{stamp},
		Value:        u.Value,
	}
	same := before != nil && before.Live() && before.UID == u.UID
	switch {
	case u.Delete:
		rec.UID, rec.Value = tombstoneUID(before.UID), nil
	case same:
		rec.Born = before.Born
		rec.Stamps = r.stampWrite(u.Key, before, u.Value, stamp)
		rec.ExpiresMicros = r.expires(u.TTL)
	default:
		rec.Born = stamp
		rec.ExpiresMicros = r.expires(u.TTL)
	}
	var dot Dot
	if ScopeOf(u.Key) != HostScope {
		r.sequence++
		dot = Dot{Actor: r.actor, Sequence: r.sequence}
	}
	entry := b.put(change{kind: userUpdate, before: before, dot: dot}, u.Key, version, rec)
	if dot != (Dot{}) {
		b.logDot(dot, u.Key)
	}
	return entry
}

// put notes a change that leaves rec under key.
func (b *batch) put(c change, key string, version Version, rec Record) Entry {
	stored, digest := appendStored(make([]byte, 0, digestBytes+recordOverhead+len(rec.UID)+len(rec.Value)), key, &rec)
	// Keep our own copy of the value, not the caller's buffer.
	rec.Value = stored[len(stored)-len(rec.Value):]
	c.after, c.stored, c.digest = Entry{Key: key, Version: version, Record: rec}, stored, digest
	b.note(c)
	return c.after
}

// erase takes a key away for good. The change has no record; after carries the
// version of the removal. It raises the floor, so that who makes the name anew
// is later than what was there.
func (r *Replica) erase(b *batch, kind pendingKind, before *Entry) {
	b.note(change{
		kind:   kind,
		before: before,
		after:  Entry{Key: before.Key, Version: r.tick(), Record: Record{UID: before.UID}},
		erase:  true,
	})
	if r.o.Faults.ForgetFloor {
		return
	}
	b.floor = max(b.floor, before.CausalLength+before.CausalLength&1)
}

// nextCausalLength: a put makes it odd, a delete even, and neither shortens it.
// A name made anew by another object without a deletion between is a life of
// its own all the same.
func (r *Replica) nextCausalLength(b *batch, before *Entry, u *Update) uint64 {
	if before == nil {
		return max(r.Floor(), b.floor) + 1
	}
	switch {
	case u.Delete:
		return before.CausalLength + before.CausalLength&1
	case !before.Live():
		return max(before.CausalLength, r.Floor(), b.floor) + 1
	case before.UID != u.UID:
		return before.CausalLength + 2
	}
	return before.CausalLength
}

// tombstoneUID keeps what fits a tombstone's 64 bytes: any UUID does.
func tombstoneUID(uid string) string {
	const longest = 16
	if _, ok := parseUUID(uid); ok || len(uid) <= longest {
		return uid
	}
	return ""
}
