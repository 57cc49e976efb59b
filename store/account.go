package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"shoal/store/vector"
)

// commit decides each write of the batch in turn and writes what is accepted.
// It returns the failure of the disk, after which some changes may have landed
// all the same: landed says which.
func (r *Replica) commit(b *batch) error {
	for _, p := range b.pending {
		if err := r.decide(b, p); err != nil {
			b.refused = append(b.refused, refusal{p, err})
		}
	}
	if len(b.held) > 0 {
		r.hold(b.held)
	}
	if b.empty() && len(r.carry) == 0 {
		return nil
	}
	r.trimLog(b)
	writes, chunks := r.writes(b)
	if err := r.disk.Commit(writes); err != nil {
		r.failed(b)
		return fmt.Errorf("commit: %w", err)
	}
	r.carry = nil
	r.applied(b, chunks)
	return nil
}

// trimLog lets the oldest chunks go when the log is too long. A checkpoint
// first notes what they say.
func (r *Replica) trimLog(b *batch) {
	r.mu.Lock()
	over := r.log.count+len(b.dots) > r.o.LogDots+r.o.LogDots/4 && b.actor == 0
	if !over {
		r.mu.Unlock()
		return
	}
	left := r.log.count
	for _, c := range r.log.chunks {
		if left <= r.o.LogDots {
			break
		}
		left -= len(c.dots)
		b.trim = append(b.trim, c.version)
	}
	r.mu.Unlock()
	if b.state == nil {
		state := r.checkpoint(b)
		b.state = &state
	}
}

// writes lists what goes to disk, in an order of which every prefix is sound:
// the floor before what makes it necessary, records before the chunk that
// vouches for them, a checkpoint before the chunks it replaces go.
func (r *Replica) writes(b *batch) (writes []Write, chunks []chunk) {
	if b.floor > r.Floor() {
		writes = append(writes, Write{Key: keyFloor, Version: r.last, Value: binary.BigEndian.AppendUint64(nil, b.floor)})
	}
	for i := range b.changes {
		c := &b.changes[i]
		writes = append(writes, Write{Key: c.after.Key, Meta: c.meta(), Version: c.after.Version, Value: c.stored, Erase: c.erase})
	}
	// All was merged before. What joins claims nothing, as it may begin anew.
	if b.joined && r.Joining() {
		writes = append(writes, Write{Key: keyJoining, Version: r.last, Erase: true})
	}
	if b.actor != 0 {
		writes = append(writes, formerWrite(r.formerWith(r.actor), r.last), actorWrite(b.actor, r.last))
	}
	if b.state != nil {
		writes = append(writes, Write{Key: keyState, Version: r.last, Value: appendCheckpoint(nil, *b.state)})
	}
	dots := b.dots
	if len(r.carry) > 0 {
		dots = append(r.carry, dots...)
	}
	for len(dots) > 0 {
		n := min(len(dots), maxChunkDots)
		// The first shares the version of the last change: nothing newer is on
		// disk then than what clients were told.
		version := r.last
		if len(b.changes) == 0 || len(chunks) > 0 {
			version = r.tick()
		}
		c := chunk{version: version, dots: append([]loggedDot(nil), dots[:n]...)}
		writes = append(writes, Write{Key: chunkKey(c.version), Version: c.version, Value: appendChunk(nil, r.hlc, c.dots)})
		chunks = append(chunks, c)
		dots = dots[n:]
	}
	if b.joined {
		writes = append(writes, Write{Key: keyVouched, Version: r.last})
	}
	for _, v := range b.trim {
		writes = append(writes, Write{Key: chunkKey(v), Version: r.last, Erase: true})
	}
	if r.o.Faults.ChunkFirst {
		slices.Reverse(writes)
	}
	return writes, chunks
}

func (c *change) meta() byte {
	var meta byte
	if c.kind == padding {
		return 0
	}
	if !c.after.Live() {
		meta |= metaTombstone
	}
	if c.after.ExpiresMicros != 0 && c.after.Live() {
		meta |= metaExpires
	}
	return meta
}

// applied makes the account agree with what is now on disk.
func (r *Replica) applied(b *batch, chunks []chunk) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.actor != 0 {
		r.log, r.vector = r.logUntil(b.trim), b.state.vector
		r.former, r.actor = r.formerWith(r.actor), b.actor
	} else if b.state != nil {
		for a, spans := range b.state.vector {
			r.vector[a] = spans
		}
	}
	for range b.trim {
		if b.actor == 0 {
			r.log.dropFirst()
		}
	}
	for _, c := range chunks {
		r.log.add(c)
		for _, d := range c.dots {
			if r.o.Faults.ForgetGap {
				_ = r.vector.AddSpan(d.dot.Actor, vector.Span{First: 1, Last: d.dot.Sequence})
			}
			if _, err := r.vector.Add(d.dot.Actor, d.dot.Sequence); err != nil {
				// Not noted as held: it comes again and is merged again, until
				// a reconciliation of sets closes the gaps.
				r.o.Logger.Warn("note a dot as held", "actor", d.dot.Actor, "sequence", d.dot.Sequence, "error", err)
			}
		}
	}
	r.account(b.changes)
	r.unlogged = false
	r.joining = r.joining && !b.joined
	r.floor = max(r.floor, b.floor)
	r.committed = r.last
	r.frontier = nil
}

// logUntil returns the log without the chunks named.
func (r *Replica) logUntil(without []Version) dotLog {
	gone := make(map[Version]bool, len(without))
	for _, v := range without {
		gone[v] = true
	}
	kept := newDotLog()
	for _, c := range r.log.chunks {
		if !gone[c.version] {
			kept.add(c)
		}
	}
	return kept
}

// account follows changes of records in fingerprints and members.
func (r *Replica) account(changes []change) {
	for i := range changes {
		c := &changes[i]
		if c.kind == padding || ScopeOf(c.after.Key) == HostScope {
			continue
		}
		if c.before != nil && counted(&c.before.Record) {
			r.prints.remove(c.after.Key, DigestOf(c.after.Key, &c.before.Record))
		}
		if !c.erase && counted(&c.after.Record) {
			r.prints.add(c.after.Key, c.digest)
		}
		r.memberChanged(c.after.Key, !c.erase && c.after.Live())
	}
}

// failed keeps the dots of a commit that failed: those that landed all the same
// are to be logged, the others voided, with the next commit that succeeds.
func (r *Replica) failed(b *batch) {
	if r.o.Faults.ReuseSequence {
		for _, d := range b.dots {
			if d.dot.Actor == r.actor {
				r.sequence--
			}
		}
	}
	if r.o.Faults.ClaimFirst {
		r.carry = append(r.carry, b.dots...)
		b.changes = b.changes[:0:0]
		return
	}
	r.hold(b.due)
	if b.undo != nil {
		b.undo()
		return
	}
	landed := b.changes[:0:0]
	there := make([]bool, len(b.changes))
	for i := range b.changes {
		c := &b.changes[i]
		if there[i] = r.landed(c); there[i] {
			landed = append(landed, *c)
		}
	}
	for i, d := range b.dots {
		// What a dot brought is the latest change of its key by then.
		brought := min(b.brought[i], len(b.changes)) - 1
		for brought >= 0 && b.changes[brought].after.Key != d.key {
			brought--
		}
		switch {
		case brought >= 0 && there[brought]:
			r.carry = append(r.carry, d)
		case brought >= 0 && b.changes[brought].dot == d.dot && !r.o.Faults.VoidOwn:
			// Our own write, of which nobody was told. One of ours that came back
			// from others comes again.
			r.carry = append(r.carry, loggedDot{dot: d.dot})
		case r.o.Faults.VoidOwn && d.dot.Actor == r.actor:
			r.carry = append(r.carry, loggedDot{dot: d.dot})
		}
	}
	b.changes = landed
	r.mu.Lock()
	defer r.mu.Unlock()
	r.account(landed)
	if _, err := r.disk.Get(keyJoining); b.joined && errors.Is(err, ErrNotFound) {
		r.joining = false
	}
	if len(landed) > 0 {
		r.floor = max(r.floor, b.floor) // it is on disk, before what landed
	}
	r.unlogged = len(r.carry) > 0
	r.committed = r.last
}

// landed reports whether a change is on disk, although the commit failed.
func (r *Replica) landed(c *change) bool {
	found, err := r.disk.Get(c.after.Key)
	if c.erase {
		return err != nil || found.Version > c.after.Version
	}
	// A later change of the same batch may be over it.
	return err == nil && found.Version >= c.after.Version
}

// hold keeps deltas from the future until their time comes. They are not noted
// as held, so that they come again if this peer restarts.
func (r *Replica) hold(deltas []Delta) {
	for _, d := range deltas {
		if len(r.held) < maxHeld && !slices.ContainsFunc(r.held, d.sameWrite) {
			r.held = append(r.held, d)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heldCount = len(r.held)
}

// sameWrite: it came before.
func (d *Delta) sameWrite(o Delta) bool {
	return d.Key == o.Key && d.Dot == o.Dot && d.Record.Stamp().same(o.Record.Stamp())
}

// Due takes out the deltas held back whose time has come.
func (r *Replica) Due() []Delta {
	now := r.o.Clock.Now()
	var due []Delta
	kept := r.held[:0]
	for _, d := range r.held {
		if r.future(&d.Record, now) {
			kept = append(kept, d)
		} else {
			due = append(due, d)
		}
	}
	clear(r.held[len(kept):])
	r.held = kept
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heldCount = len(kept)
	return due
}

func (r *Replica) logged() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.count
}
