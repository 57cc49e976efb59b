package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"shoal/gossip/plumtree"
	"shoal/store"
	"shoal/store/vector"
)

// peer is one host: what survives a crash, and the replica while it is up.
type peer struct {
	r      *run
	id     int
	name   plumtree.Peer
	disk   *disk
	clock  *clock
	random *rand.Rand
	// member: it belongs to the cell and counts, whether it is up or not.
	member bool

	// While it is up:
	up      bool
	boots   int
	replica *store.Replica
	proto   protocol
	writing *operation
	// claimed is the vector that was checked.
	claimed vector.Vector
	// bounds are lives that ended on this disk.
	bounds map[string]life
	full   bool
}

// operation is a write that is being made.
type operation struct {
	id         uint64
	key        string
	registered bool
	write      *write
}

// protocol carries records between peers. It is made when a peer starts and
// forgotten when that ends.
type protocol interface {
	// published: the peer wrote this, and it is durable.
	published(d store.Delta)
	// members: who is believed to be alive, oneself included.
	members(alive []*peer)
	receive(from *peer, message any)
	// linkLost: neither side can reach the other.
	linkLost(other *peer)
	stop()
}

// reader draws names of actors.
type reader struct{ random *rand.Rand }

func (r reader) Read(b []byte) (int, error) {
	for i := 0; i < len(b); i += 8 {
		var word [8]byte
		binary.BigEndian.PutUint64(word[:], r.random.Uint64())
		copy(b[i:], word[:])
	}
	return len(b), nil
}

func (r *run) newPeer() *peer {
	id := len(r.peers)
	p := &peer{
		r: r, id: id, name: plumtree.Peer(fmt.Sprintf("p%02d", id)), disk: newDisk(),
		clock:  &clock{loop: &r.loop, grain: r.grain},
		random: rand.New(rand.NewPCG(r.seed, uint64(id)+100)),
		bounds: make(map[string]life), claimed: vector.Vector{},
	}
	r.peers = append(r.peers, p)
	return p
}

// boot opens what is on disk. A crash while doing so leaves the peer down.
func (p *peer) boot() {
	if p.up {
		return
	}
	p.boots++
	p.disk.reopen()
	p.disk.changed = func(was *store.Stored, w *store.Write) { p.r.check.changed(p, was, w) }
	options := store.ReplicaOptions{
		Clock: p.clock, Tag: store.Tag(p.id + 1), Rand: reader{p.random}, LogDots: p.r.o.LogDots, OwnSpans: p.r.o.OwnSpans, Faults: p.r.o.Faults,
		Joining: p.id > 0 || p.boots > 1,
	}
	if p.r.o.Fields {
		options.Fields = toyFields{}
	}
	replica, err := store.OpenReplica(p.disk, options)
	if err == nil {
		err = replica.LoadAll()
	}
	if err != nil {
		if !p.disk.crashed && !p.full {
			p.r.check.fail("", "%s does not open: %v", p.name, err)
		}
		p.r.loop.after(time.Second, p.boot)
		return
	}
	p.replica, p.up, p.member = replica, true, true
	p.claimed = vector.Vector{}
	p.r.trace.note("", p.r.loop.now, "%s is up as %x, vector %v", p.name, uint64(replica.Actor()), replica.Vector())
	if p.r.o.Driver == Gossip {
		p.proto = newCored(p)
	} else {
		p.proto = newPuller(p)
	}
	p.enrol()
	p.r.spread()
	p.every(p.tend)
}

// enrol makes this peer's actor a member, and no other that was it.
func (p *peer) enrol() {
	actor := p.replica.Actor()
	key := store.MemberKey(actor)
	if _, err := p.replica.Get(key); err == nil {
		return
	}
	p.write(store.Update{Key: key, Expect: store.Any, UID: fmt.Sprintf("%s.%d", p.name, p.r.nextOp())}, "m")
}

// measure: no queue grows with what happens.
func (p *peer) measure() {
	if n := p.replica.HeldBack(); n > maxHeldBack {
		p.r.check.fail("", "%s holds %d deltas back", p.name, n)
	}
	if d, ok := p.proto.(*cored); ok {
		load := d.core.Load()
		if err := load.Check(); err != nil {
			p.r.check.fail("", "%s: %v", p.name, err)
		}
		// Of a cell as small and as slow as this far less waits.
		if load.Merges > maxMerges {
			p.r.check.fail("", "%s: %d merges wait", p.name, load.Merges)
		}
		p.r.result.Merges, p.r.result.Works = max(p.r.result.Merges, load.Merges), max(p.r.result.Works, load.Works)
	}
}

const (
	// maxHeldBack is the store's own limit.
	maxHeldBack = 1024
	// maxMerges: a merge takes some milliseconds, and all clients together make
	// a hundred writes in a second.
	maxMerges = 200
)

// retire takes out what this peer was, once all know what it is.
func (p *peer) retire() {
	own, err := p.replica.Get(store.MemberKey(p.replica.Actor()))
	if err != nil || own.Version > p.replica.Stable() && !p.r.o.Faults.RetireFirst {
		return
	}
	for _, a := range p.replica.Former() {
		if _, err := p.replica.Get(store.MemberKey(a)); err == nil {
			p.write(store.Update{Key: store.MemberKey(a), Expect: store.Any, Delete: true}, "")
		}
	}
}

// every calls do about once a second, while this boot lasts.
func (p *peer) every(do func()) {
	p.later(time.Second*3/4+time.Duration(p.random.Int64N(int64(time.Second/2))), func() {
		do()
		p.every(do)
	})
}

// later calls do in d, if this boot lasts until then, and looks after it.
func (p *peer) later(d time.Duration, do func()) {
	boot := p.boots
	p.r.loop.after(d, func() {
		if p.up && p.boots == boot {
			do()
			p.settle()
		}
	})
}

// tend is what a DB's loops do.
func (p *peer) tend() {
	if p.full && p.random.IntN(2) == 0 {
		return
	}
	p.r.check.claims(p)
	p.enrol()
	p.retire()
	p.measure()
	_ = p.replica.Release()
	if !p.r.o.Lying {
		p.tolerate(p.replica.Reap(64))
	}
	p.tolerate(p.replica.Expire(64))
}

// tolerate notes errors that no fault explains.
func (p *peer) tolerate(err error) {
	switch {
	case err == nil, p.disk.crashed, errors.Is(err, errFull), errors.Is(err, errCrashed), errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrHeldBack):
	default:
		p.r.check.fail("", "%s: %v", p.name, err)
	}
}

// settle makes a crash in the midst of a commit the end of this boot.
func (p *peer) settle() {
	if p.up && p.disk.crashed {
		p.crash("in a commit")
	}
}

func (p *peer) crash(how string) {
	if !p.up {
		return
	}
	p.r.trace.note("", p.r.loop.now, "%s crashes %s", p.name, how)
	p.up = false
	p.proto.stop()
	p.proto, p.replica = nil, nil
	for _, q := range p.r.peers {
		if q.up {
			q.proto.linkLost(p)
		}
	}
	if p.member {
		p.r.loop.after(p.r.between(100*time.Millisecond, 5*time.Second), p.restart)
	}
}

func (p *peer) restart() {
	if !p.up && p.member {
		p.boot()
	}
}

// joins: what is on this disk goes if it is not all of what a member had.
func (p *peer) joins() bool {
	_, ok := p.disk.values["\x00joining"]
	return ok
}

// state is what is under a key on this disk, up or not.
func (p *peer) state(key string) *state {
	found, ok := p.disk.values[key]
	if !ok {
		return nil
	}
	s, err := stateOf(found.Value)
	if err != nil {
		p.r.check.fail(key, "%s has what cannot be read under %s: %v", p.name, key, err)
		return nil
	}
	return s
}

// write makes one write of fields, by a client or the peer itself; nil if it
// was not answered.
func (p *peer) write(u store.Update, fields string) *write {
	op := &operation{id: p.r.nextOp(), key: u.Key}
	before := p.state(u.Key)
	if !u.Delete {
		value := object{}
		if before != nil && before.life.live() && before.life.uid == u.UID {
			for f, by := range before.value {
				value[f] = by
			}
		}
		for _, f := range []byte(fields) {
			value[f] = op.id
		}
		u.Value = value.encode()
	}
	p.writing = op
	_, d, err := p.replica.Write(u)
	p.writing = nil
	if err != nil {
		var conflict *store.ConflictError
		if !errors.As(err, &conflict) {
			p.tolerate(err)
		}
		p.r.trace.note(u.Key, p.r.loop.now, "%s refuses operation %d: %v", p.name, op.id, err)
		return nil
	}
	if op.write == nil {
		p.r.check.fail(u.Key, "%s answered operation %d on %s and wrote nothing", p.name, op.id, u.Key)
		return nil
	}
	p.r.check.answered(op.write, before, d.Dot)
	p.r.trace.note(u.Key, p.r.loop.now, "%s answered %v", p.name, op.write)
	p.r.result.Answered++
	p.proto.published(d)
	return op.write
}

// report passes on what another says it holds.
func (p *peer) report(from vector.Actor, v vector.Vector) {
	if p.replica.Report(from, v) {
		actor := p.replica.Actor()
		p.later(0, func() {
			p.r.trace.note("", p.r.loop.now, "%s lost writes; it was %x", p.name, uint64(actor))
			p.tolerate(p.replica.Reincarnate(actor))
			if now := p.replica.Actor(); now != actor {
				p.claimed = vector.Vector{}
				p.enrol()
			}
		})
	}
}

func began2024(micros uint64) time.Time {
	return time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(micros) * time.Microsecond)
}
