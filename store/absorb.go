package store

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"shoal/store/vector"
)

const (
	// maxSkew is how far a stamp may be ahead of this peer's clock before it is
	// held back: hosts that keep time by NTP are within some milliseconds.
	maxSkew = 500 * time.Millisecond
	// maxHeld deltas wait at most. Others are not noted as held either and come
	// again by anti-entropy.
	maxHeld = 1024
	// bareWait is longer than a reconciliation of sets or a snapshot goes on
	// without anything coming.
	bareWait = 30 * time.Second
)

// ErrHeldBack says that a state from the future was among what was to be
// adopted; it has to be asked for again.
var ErrHeldBack = errors.New("held back: a clock of the cell is ahead")

// decideMerge takes deltas of other peers in.
func (r *Replica) decideMerge(b *batch, deltas []Delta) error {
	for i := range deltas {
		if err := r.mergeOne(b, &deltas[i]); err != nil {
			return err
		}
	}
	return nil
}

// decideDue takes in what was held back and is due; if the commit fails it is
// held back again, as whoever brought it takes it for merged.
func (r *Replica) decideDue(b *batch) error {
	due := r.Due()
	b.due = append(b.due, due...)
	return r.decideMerge(b, due)
}

func (r *Replica) mergeOne(b *batch, d *Delta) error {
	fresh := r.freshDots(b, d)
	bare := d.Dot == (Dot{}) && len(d.Also) == 0
	if len(fresh) == 0 && !bare || !bare && r.Joining() {
		return nil
	}
	if d.Void() {
		for _, dot := range fresh {
			b.logDot(dot, "")
		}
		return nil
	}
	if ScopeOf(d.Key) == HostScope {
		return nil // another host's own affair, or a mistake of that peer's
	}
	if r.o.Faults.SkipTombstone && !d.Record.Live() {
		for _, dot := range fresh {
			b.logDot(dot, d.Key)
		}
		return nil
	}
	now := r.o.Clock.Now()
	latest := d.Record.Stamp()
	if r.future(&d.Record, now) {
		if r.o.Faults.DropHeld {
			for _, dot := range fresh {
				b.logDot(dot, d.Key)
			}
			return nil
		}
		b.held = append(b.held, *d)
		if bare {
			r.waitFor(&d.Record, now)
		}
		return nil
	}
	before, err := r.current(b, d.Key)
	if err != nil {
		return err
	}
	r.hlc = max(r.hlc, latest.Time, d.Record.Born.Time)
	r.mergeInto(b, before, d, microseconds(now))
	for _, dot := range fresh {
		b.logDot(dot, d.Key)
	}
	return nil
}

// future reports whether a record cannot have been written by now: its stamps
// say so, or its causal length, which has not grown by more than two each
// microsecond. Were a longer one merged, its tombstone would one day raise the
// floor to where lengths end.
func (r *Replica) future(rec *Record, now time.Time) bool {
	limit := now.Add(maxSkew)
	return rec.Stamp().Time.Time().After(limit) || rec.Born.Time.Time().After(limit) || rec.CausalLength > longest(limit)
}

// waitFor puts off adopting until a state without a dot is due: it may be one
// that the vector stands for. One with an absurd stamp must not keep this peer
// from ever adopting, so that is put off only until whoever brought it has
// given up or begun anew.
func (r *Replica) waitFor(rec *Record, now time.Time) {
	due := max(rec.Stamp().Time, rec.Born.Time).Time()
	if limit := now.Add(bareWait); due.After(limit) || rec.CausalLength > longest(now) || len(r.held) >= maxHeld {
		due = limit
	}
	if due.After(r.bareUntil) || r.bareUntil.After(now.Add(bareWait)) {
		r.bareUntil = due
	}
}

// longest is the causal length that nothing exceeds at time t.
func longest(t time.Time) uint64 { return 2 * microseconds(t) }

// freshDots returns the dots of d that are not held yet.
func (r *Replica) freshDots(b *batch, d *Delta) []Dot {
	r.mu.Lock()
	defer r.mu.Unlock()
	var fresh []Dot
	for _, dot := range d.Dots() {
		if _, ok := b.seen[dot]; !ok && dot.Sequence != 0 && !r.vector.Has(dot.Actor, dot.Sequence) {
			fresh = append(fresh, dot)
		}
	}
	return fresh
}

// mergeInto notes what the merge changes, if anything.
func (r *Replica) mergeInto(b *batch, before *Entry, d *Delta, now uint64) {
	if before == nil {
		b.put(change{kind: merging}, d.Key, r.tick(), endedBy(now, d.Record))
		return
	}
	kept, displaced := r.mergeRecords(d.Key, before.Record, d.Record)
	if displaced != nil && r.o.Displaced != nil {
		r.o.Displaced(d.Key, kept, *displaced)
	}
	// The time of what is here may have been prolonged: that of the two together
	// counts.
	kept = endedBy(now, kept)
	if sameRecord(&kept, &before.Record) {
		if over := endedBy(now, d.Record); over.Live() && r.unheard(&kept, before.Version) {
			r.repeat(b, before, before.Record)
		}
		return
	}
	if here := endedBy(now, before.Record); here.Live() && kept.ExpiresMicros != 0 && r.unheard(&kept, before.Version) {
		// Its time was over for somebody, and had been prolonged for others.
		r.repeat(b, before, kept)
		return
	}
	c := change{kind: merging, before: before}
	if before.Live() && kept.Live() && before.UID != kept.UID {
		c.gone = r.tick()
	}
	b.put(c, d.Key, r.tick(), kept)
}

// unheard: of this tombstone others may not know. It was made of a record whose
// time was over, which each does by itself; or all had it, some may have reaped
// it, and still somebody sends what it outdid.
func (r *Replica) unheard(rec *Record, since Version) bool {
	return !rec.Live() && (rec.ExpiresMicros != 0 || r.stable(since)) && !r.Joining() && !r.o.Faults.KeepQuiet
}

// repeat puts a tombstone here with a dot of our own, for others to get.
func (r *Replica) repeat(b *batch, before *Entry, rec Record) {
	r.sequence++
	dot := Dot{Actor: r.actor, Sequence: r.sequence}
	b.put(change{kind: merging, before: before, dot: dot}, before.Key, r.tick(), rec)
	b.logDot(dot, before.Key)
}

func sameRecord(a, b *Record) bool {
	return a.CausalLength == b.CausalLength && a.UID == b.UID && a.Born.same(b.Born) && a.ExpiresMicros == b.ExpiresMicros &&
		slices.EqualFunc(a.Stamps, b.Stamps, func(x, y Stamp) bool { return x.same(y) && slices.Equal(x.Fields, y.Fields) }) &&
		slices.Equal(a.Value, b.Value)
}

// decideAdopt notes all dots of a vector as held, after the states that cover
// them were merged. They cannot be given to others one by one.
func (r *Replica) decideAdopt(b *batch, c *checkpoint) error {
	if err := r.decideDue(b); err != nil {
		return err
	}
	now := r.o.Clock.Now()
	if len(c.vector) > 0 && now.Before(r.bareUntil) && !r.bareUntil.After(now.Add(bareWait)) {
		return fmt.Errorf("adopt a vector: %w", ErrHeldBack)
	}
	c.floor = min(c.floor, longest(now.Add(maxSkew)))
	state := r.checkpoint(b)
	if err := state.vector.Merge(c.vector); err != nil {
		return fmt.Errorf("adopt a vector: %w", err)
	}
	if !r.o.Faults.OldFloor {
		state.floor = max(state.floor, c.floor)
		b.floor = max(b.floor, c.floor)
	}
	b.state = &state
	b.joined = len(c.vector) > 0
	r.tick()
	return nil
}

// checkpoint is the account as of before this batch, or as the batch already
// leaves it.
func (r *Replica) checkpoint(b *batch) checkpoint {
	if b.state != nil {
		return *b.state
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return checkpoint{hlc: r.hlc, floor: max(r.floor, b.floor), vector: r.vector.Clone()}
}

// decideReincarnate makes this peer a new actor, after others were found to
// hold dots of it that its disk has lost. What it wrote since it was opened is
// logged anew under the new name, as those dots have two meanings now.
func (r *Replica) decideReincarnate(b *batch, was Actor) error {
	if was != r.Actor() || r.o.Faults.KeepActor {
		return nil // done already
	}
	if len(b.changes) > 0 || len(b.dots) > 0 {
		return errors.New("reincarnate: not among other writes")
	}
	id, err := r.drawActor()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.actor
	sequence, atOpen, carry := r.sequence, r.atOpen, r.carry
	b.undo = func() { r.sequence, r.atOpen, r.carry = sequence, atOpen, carry }
	state := checkpoint{hlc: r.hlc, floor: r.floor, vector: r.vector.Clone()}
	if r.atOpen == 0 {
		delete(state.vector, old)
	} else {
		state.vector[old] = state.vector.Intersect(old, vector.Span{First: 1, Last: r.atOpen})
	}
	r.sequence = 0
	for _, c := range r.log.chunks {
		if c.version <= r.opened {
			continue
		}
		b.trim = append(b.trim, c.version)
		for _, d := range c.dots {
			if d.dot.Actor != old || d.dot.Sequence <= r.atOpen {
				b.dots = append(b.dots, d)
				continue
			}
			if d.key == "" {
				continue
			}
			r.sequence++
			b.dots = append(b.dots, loggedDot{Dot{Actor: id, Sequence: r.sequence}, d.key})
		}
	}
	b.actor, b.state = id, &state
	r.carry, r.atOpen = nil, 0
	r.tick()
	return nil
}
