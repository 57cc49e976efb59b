package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"shoal/store/vector"
)

// ReplicaOptions says how a Replica reads the world. The zero value of each is
// a daemon's default.
type ReplicaOptions struct {
	Clock    Clock
	Versions VersionSource
	Tag      Tag
	// Rand is where names of actors come from.
	Rand io.Reader
	// Fields, if set, merges single fields.
	Fields FieldMerger
	// LogDots is how many of the latest dots can be given to others one by one.
	LogDots int
	// Displaced is told when of two objects made independently under one name
	// one had to go. It must not block.
	Displaced func(key string, kept, lost Record)
	Logger    *slog.Logger
	// Joining: a new disk is that of a peer which joins a cell, not of one that
	// founds it.
	Joining bool
	// OwnSpans: with so many spans of its own in the vector, a peer goes on as a
	// new actor when it is opened.
	OwnSpans int
	// Faults are for the simulator alone.
	Faults Faults
}

// Replica is the part of a peer's store that decides: it gives out versions,
// stamps and dots, checks what writers expect, merges what other peers wrote
// and keeps the account of what this peer holds. It starts no goroutine and
// reads time, chance and disk only through what it is given, so that a
// simulator can run thousands of them. DB runs one for a daemon.
//
// Write, Merge, Adopt, Reincarnate, Reap and Expire must not be called
// concurrently; the rest may be called at any time.
type Replica struct {
	disk Disk
	o    ReplicaOptions

	// The committer's own.
	last     Version
	hlc      HLC
	sequence uint64
	// atOpen is the last sequence number of this actor found on disk, opened
	// the version then: what came after is known for certain to be ours.
	atOpen uint64
	// kept is the last sequence number of this actor that was on disk.
	kept   uint64
	opened Version
	// vouched is the version of the newest chunk found on disk, or of what was
	// adopted after it.
	vouched Version
	// found: this disk had an actor when it was opened.
	found bool
	// carry are dots of failed commits, to be logged with the next.
	carry []loggedDot
	// held are deltas from the future. Until bareUntil some of them may be
	// states without a dot.
	held      []Delta
	bareUntil time.Time

	mu sync.Mutex
	// Guarded by mu.
	actor     Actor
	joining   bool
	vector    vector.Vector
	frontier  *frontier // of vector, made when asked for
	log       dotLog
	prints    Fingerprints
	floor     uint64
	committed Version
	members   map[Actor]struct{}
	former    []Actor // what this peer was, oldest first
	round     round
	stableAt  Version
	heldCount int
	// unlogged: there are records on disk whose dots are still to be logged.
	unlogged bool
}

// frontier is an immutable copy of a vector and its digest.
type frontier struct {
	vector vector.Vector
	digest uint64
}

func (o *ReplicaOptions) complete() {
	if o.Clock == nil {
		o.Clock = SystemClock{}
	}
	if o.Versions == nil {
		o.Versions = clockVersions{clock: o.Clock, tag: o.Tag}
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.LogDots <= 0 {
		o.LogDots = defaultLogDots
	}
	if o.OwnSpans <= 0 {
		o.OwnSpans = defaultOwnSpans
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

const (
	// keyActor and keyFloor are keys of the store itself; no registry path
	// starts with a zero.
	keyActor = "\x00actor"
	// keyJoining is there until a peer that joins has adopted what a member has.
	keyJoining = "\x00joining"
	keyFloor   = "\x00floor"
	// keyVouched has as its version that of the last adopting: what is older
	// came with states that were claimed as a whole, not dot by dot.
	keyVouched = "\x00vouched"
)

// OpenReplica finds out what is on disk.
func OpenReplica(disk Disk, o ReplicaOptions) (*Replica, error) {
	o.complete()
	r := &Replica{disk: disk, o: o, vector: vector.Vector{}, log: newDotLog(), members: make(map[Actor]struct{})}
	r.last = disk.Newest()
	if err := r.loadActor(); err != nil {
		return nil, err
	}
	// Stamps never run ahead of versions by more than what is observed of
	// others, which the log has.
	r.hlc = HLC(uint64(r.last) | (1<<hlcLogicalBits - 1))
	if err := r.loadState(); err != nil {
		return nil, err
	}
	if err := r.loadChunks(); err != nil {
		return nil, err
	}
	if found, err := disk.Get(keyVouched); err == nil {
		r.vouched = max(r.vouched, found.Version)
	} else if !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("read what was adopted: %w", err)
	}
	r.sequence = r.onDisk()
	r.kept = r.sequence
	r.skipSequences()
	if err := r.renew(); err != nil {
		return nil, err
	}
	r.atOpen, r.opened, r.committed = r.sequence, r.last, r.last
	return r, nil
}

// onDisk is the last sequence number of this actor that the account on disk has.
// The next to be given out may be far beyond it, see skipSequences.
func (r *Replica) onDisk() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if spans := r.vector[r.actor]; len(spans) > 0 {
		return spans[len(spans)-1].Last
	}
	return 0
}

// sequenceUnit: no peer makes more than one write in so long, over its life.
const sequenceUnit = 100 * time.Microsecond

// skipSequences leaves a gap for what a disk that lies may have lost, so that no
// dot is given out twice: what others have of it comes back like any other
// write. A gap that nobody ever filled is asked of nobody.
func (r *Replica) skipSequences() {
	if r.found && !r.o.Faults.KeepActor {
		units := microseconds(r.o.Clock.Now()) / uint64(sequenceUnit/time.Microsecond)
		r.sequence = max(r.sequence, units)
	}
}

func (r *Replica) loadActor() error {
	found, err := r.disk.Get(keyActor)
	if errors.Is(err, ErrNotFound) {
		return r.createActor()
	}
	if err != nil {
		return fmt.Errorf("read actor: %w", err)
	}
	if len(found.Value) != 8 {
		return fmt.Errorf("read actor: %d bytes, expected 8", len(found.Value))
	}
	r.actor = Actor(binary.BigEndian.Uint64(found.Value))
	r.found = true
	if r.former, err = r.loadFormer(); err != nil {
		return err
	}
	switch _, err := r.disk.Get(keyJoining); {
	case err == nil:
		r.joining = true
	case !errors.Is(err, ErrNotFound):
		return fmt.Errorf("read whether this peer has joined: %w", err)
	}
	return nil
}

// createActor also gives an empty database its first version, as no list may
// show version zero.
func (r *Replica) createActor() error {
	id, err := r.drawActor()
	if err != nil {
		return err
	}
	r.last = r.o.Versions.Next(r.last)
	writes := []Write{actorWrite(id, r.last)}
	if r.o.Joining {
		// Before the actor: with it this disk is no longer a new one.
		writes = []Write{{Key: keyJoining, Version: r.last, Value: []byte{1}}, writes[0]}
		r.joining = true
	}
	if err := r.disk.Commit(writes); err != nil {
		return fmt.Errorf("write actor: %w", err)
	}
	r.actor = id
	return nil
}

func (r *Replica) drawActor() (Actor, error) {
	var id [8]byte
	for {
		if _, err := io.ReadFull(r.o.Rand, id[:]); err != nil {
			return 0, fmt.Errorf("draw actor: %w", err)
		}
		if a := Actor(binary.BigEndian.Uint64(id[:])); a != 0 {
			return a, nil
		}
	}
}

func actorWrite(a Actor, v Version) Write {
	return Write{Key: keyActor, Version: v, Value: binary.BigEndian.AppendUint64(nil, uint64(a))}
}

// loadState reads what the log no longer tells.
func (r *Replica) loadState() error {
	found, err := r.disk.Get(keyFloor)
	switch {
	case err == nil && len(found.Value) == 8:
		r.floor = binary.BigEndian.Uint64(found.Value)
	case err != nil && !errors.Is(err, ErrNotFound):
		return fmt.Errorf("read floor: %w", err)
	}
	found, err = r.disk.Get(keyState)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read checkpoint: %w", err)
	}
	c, err := decodeCheckpoint(found.Value)
	if err != nil {
		return err
	}
	r.vector, r.hlc, r.floor = c.vector, max(r.hlc, c.hlc), max(r.floor, c.floor)
	return nil
}

func (r *Replica) loadChunks() error {
	var failed error
	err := r.disk.Scan(keyChunks, func(s Stored) bool {
		hlc, dots, err := decodeChunk(s.Value)
		if err != nil {
			failed = err
			return false
		}
		r.hlc = max(r.hlc, hlc)
		for _, d := range dots {
			if _, err := r.vector.Add(d.dot.Actor, d.dot.Sequence); err != nil {
				failed = err
				return false
			}
		}
		r.log.add(chunk{version: s.Version, dots: dots})
		r.vouched = max(r.vouched, s.Version)
		return true
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}

// loadRecord takes one record on disk into account, while opening.
func (r *Replica) loadRecord(key string, meta byte, version Version, value func() ([]byte, error)) error {
	if err := r.findOrphan(key, version, value); err != nil {
		return err
	}
	if a, ok := memberActor(key); ok && meta&metaTombstone == 0 {
		r.members[a] = struct{}{}
	}
	if meta&(metaTombstone|metaExpires) != 0 || ScopeOf(key) == HostScope {
		return nil
	}
	b, err := value()
	if err != nil {
		return err
	}
	digest, err := storedDigest(key, b)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	r.prints.add(key, digest)
	return nil
}

// LoadAll takes all records on disk into account; the last step of opening for
// who does not scan them anyway.
func (r *Replica) LoadAll() error {
	var failed error
	err := r.disk.Scan("/", func(s Stored) bool {
		failed = r.loadRecord(s.Key, s.Meta, s.Version, func() ([]byte, error) { return s.Value, nil })
		return failed == nil
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	return r.Settle()
}

// findOrphan gives a dot of our own to what a torn commit left without one: no
// other peer would come to hear of it. What was merged mostly comes again under
// its own dots, but not if whoever brought it is lost for good. A peer that
// joins begins anew instead.
func (r *Replica) findOrphan(key string, version Version, value func() ([]byte, error)) error {
	if version <= r.vouched || ScopeOf(key) == HostScope || r.o.Faults.ForgetOrphans {
		return nil
	}
	b, err := value()
	if err != nil {
		return err
	}
	rec, err := decodeStored(b)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if !r.joining || slices.ContainsFunc(rec.Stamps, func(s Stamp) bool { return s.Actor == r.actor }) {
		r.sequence++
		r.carry = append(r.carry, loggedDot{Dot{Actor: r.actor, Sequence: r.sequence}, key})
		r.unlogged = true
	}
	return nil
}

// Settle logs dots that a commit should have logged and did not, once that is
// possible again.
func (r *Replica) Settle() error {
	_, err := r.single()
	return err
}

// Actor returns the name of this peer's incarnation.
func (r *Replica) Actor() Actor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.actor
}

// Joining reports that this peer has not yet adopted what a member of the cell
// has. Until then it takes in whole states alone: it does not know which of
// what is under way was outdone and reaped before it became a member, and has
// nothing to give a third. Nothing is stable to it.
func (r *Replica) Joining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.joining
}

// IsMember reports whether this peer knows that actor as a member. Only a
// member may be given a snapshot: what all members known here have had is left
// out of it, and nobody would wait for a peer that is unknown.
func (r *Replica) IsMember(a Actor) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.members[a]
	return ok
}

// Vector returns the dots held, all of them durable. Nobody may change it.
func (r *Replica) Vector() vector.Vector {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.frontierLocked().vector
}

func (r *Replica) vectorAt() (vector.Vector, Version) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.frontierLocked().vector, r.committed
}

// VectorDigest is equal for equal vectors.
func (r *Replica) VectorDigest() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.frontierLocked().digest
}

func (r *Replica) frontierLocked() *frontier {
	if r.frontier == nil {
		v := r.vector.Clone()
		r.frontier = &frontier{vector: v, digest: xxhash.Sum64(vector.AppendVector(nil, v))}
	}
	return r.frontier
}

// Floor returns the causal length below which nothing is created any more.
func (r *Replica) Floor() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.floor
}

// Fingerprints returns those of what is held.
func (r *Replica) Fingerprints() Fingerprints {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.prints
}

// HeldBack returns how many deltas wait for their time to come.
func (r *Replica) HeldBack() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heldCount
}

// tick advances the version; stamp also the clock. A stamp's physical part
// passes the version's only where a peer's clock is ahead of ours.
func (r *Replica) tick() Version {
	r.last = r.o.Versions.Next(r.last)
	return r.last
}

func (r *Replica) stamp() Stamp {
	r.hlc = r.hlc.Tick(r.o.Clock.Now())
	return Stamp{Time: r.hlc, Actor: r.actor}
}

func (r *Replica) expires(ttl time.Duration) uint64 {
	if ttl <= 0 {
		return 0
	}
	return microseconds(r.o.Clock.Now().Add(ttl))
}
