package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"shoal/gossip"
	"shoal/gossip/plumtree"
	"shoal/store"
	"shoal/store/vector"
)

// cored runs gossip.Core: it links neighbours as a node does, carries frames,
// and does the work that the core leaves.
type cored struct {
	p     *peer
	core  *gossip.Core
	links map[plumtree.Peer]*peer
	due   time.Duration
	seen  []*peer
}

// frame is a message of one core to another. epoch is of the link it went over.
type frame struct{ f gossip.Frame }

func newCored(p *peer) *cored {
	timing := gossip.DefaultTiming
	// Frames are lost here, as they are not on a stream.
	timing.Answer, timing.Session = 2*time.Second, 4*time.Second
	d := &cored{p: p, links: make(map[plumtree.Peer]*peer), due: -1}
	d.core = gossip.NewCore(gossip.CoreOptions{
		Self: p.name, Store: replicaStore{p}, Random: rand.New(rand.NewPCG(p.r.seed, p.random.Uint64())), Timing: timing,
	})
	return d
}

func (d *cored) now() time.Duration { return d.p.r.loop.now }

func (d *cored) published(delta store.Delta) {
	d.core.Publish([]store.Delta{delta}, d.now())
	d.drain()
}

func (d *cored) members(alive []*peer) {
	var members []gossip.Member
	var names []plumtree.Peer
	for _, q := range alive {
		members = append(members, gossip.Member{Name: q.name, Actor: q.replica.Actor()})
		names = append(names, q.name)
	}
	d.seen = alive
	d.core.Members(members, d.now())
	near := plumtree.Neighbours(d.p.name, names, plumtree.DefaultRings)
	for _, q := range alive {
		if slices.Contains(near, q.name) {
			d.connect(q, true)
		} else if d.links[q.name] != nil {
			d.core.Detach(q.name)
		}
	}
	d.drain()
}

// connect makes a link, which either end can see to.
func (d *cored) connect(q *peer, tree bool) bool {
	if q == d.p || !q.up || !d.p.r.net.both(d.p, q) {
		return false
	}
	other, ok := q.proto.(*cored)
	if !ok {
		return false
	}
	had := d.links[q.name] == q
	d.links[q.name] = q
	if !had || tree {
		d.core.Connect(q.name, tree, d.now())
	}
	if !had {
		other.links[d.p.name] = d.p
		other.core.Connect(d.p.name, tree, d.now())
		q.later(0, other.drain)
	}
	d.drain()
	return true
}

func (d *cored) linkLost(q *peer) {
	if d.links[q.name] == nil {
		return
	}
	delete(d.links, q.name)
	d.core.Disconnect(q.name, d.now())
	if other, ok := q.proto.(*cored); ok && q.up {
		other.linkLost(d.p)
	}
	d.p.later(0, d.drain)
}

func (d *cored) stop() {
	for _, q := range d.p.r.peers {
		delete(d.links, q.name)
	}
}

func (d *cored) receive(from *peer, message any) {
	m, ok := message.(frame)
	if !ok || d.links[from.name] != from {
		return
	}
	d.core.Receive(from.name, m.f, d.now())
	d.drain()
}

// drain does what the core asks for, and sees to its next tick.
func (d *cored) drain() {
	out := d.core.Take()
	for _, o := range out.Send {
		if q := d.links[o.To]; q != nil {
			d.p.r.net.send(d.p, q, frame{o.Frame})
		}
	}
	for _, m := range out.Merge {
		d.p.later(d.p.r.between(100*time.Microsecond, 3*time.Millisecond), func() {
			err := d.p.replica.Merge(m.Deltas)
			if d.p.disk.crashed {
				return
			}
			d.core.Merged(m.Token, err, d.now())
			d.drain()
		})
	}
	for _, w := range out.Work {
		d.p.later(d.p.r.between(100*time.Microsecond, 2*time.Millisecond), func() { d.work(w) })
	}
	for _, name := range out.Dial {
		d.p.later(d.p.r.between(time.Millisecond, 5*time.Millisecond), func() {
			i := slices.IndexFunc(d.seen, func(q *peer) bool { return q.name == name })
			if i < 0 || !d.connect(d.seen[i], false) {
				d.core.DialFailed(name)
			}
		})
	}
	for _, c := range out.Close {
		if c.Reason != "" {
			d.p.r.trace.note("", d.now(), "%s closes its link to %s: %s", d.p.name, c.Peer, c.Reason)
			d.p.r.result.Cut++
		}
		if q := d.links[c.Peer]; q != nil {
			d.linkLost(q)
		}
	}
	d.tick()
}

func (d *cored) work(w gossip.Work) {
	r := w.Do(context.Background(), replicaStore{d.p}, func(f gossip.Frame) error {
		q := d.links[w.To]
		if q == nil {
			return errors.New("the link is gone")
		}
		d.p.r.net.send(d.p, q, frame{f})
		return nil
	})
	if d.p.disk.crashed {
		return
	}
	d.core.Finish(w.Token, r, d.now())
	d.drain()
}

// tick wakes the core when it has something due.
func (d *cored) tick() {
	at, ok := d.core.Deadline()
	if !ok || d.due >= 0 && d.due <= at {
		return
	}
	at = max(at, d.now())
	d.due = at
	d.p.later(at-d.now(), func() {
		if d.due != at {
			return // an earlier one was planned since
		}
		d.due = -1
		d.core.Tick(d.now())
		d.drain()
	})
}

// replicaStore is the gossip.Store of a simulated peer.
type replicaStore struct{ p *peer }

func (s replicaStore) Actor() vector.Actor   { return s.p.replica.Actor() }
func (s replicaStore) Vector() vector.Vector { return s.p.replica.Vector() }
func (s replicaStore) Joining() bool         { return s.p.replica.Joining() }
func (s replicaStore) IsMember(a vector.Actor) bool {
	return s.p.r.o.Reckless || s.p.replica.IsMember(a)
}
func (s replicaStore) StartOver(context.Context) error  { return s.p.replica.StartOver() }
func (s replicaStore) VectorDigest() uint64             { return s.p.replica.VectorDigest() }
func (s replicaStore) Floor() uint64                    { return s.p.replica.Floor() }
func (s replicaStore) Fingerprints() store.Fingerprints { return s.p.replica.Fingerprints() }
func (s replicaStore) Report(a vector.Actor, v vector.Vector) {
	s.p.report(a, v)
}
func (s replicaStore) Merge(_ context.Context, d []store.Delta) error { return s.p.replica.Merge(d) }
func (s replicaStore) Deltas(want vector.Vector, maxBytes int) ([]store.Delta, vector.Vector, error) {
	return s.p.replica.Deltas(want, maxBytes)
}
func (s replicaStore) Digests(context.Context) ([]store.KeyDigest, vector.Vector, uint64, error) {
	return s.p.replica.Digests()
}
func (s replicaStore) States(keys []string) ([]store.Delta, error) { return s.p.replica.States(keys) }
func (s replicaStore) Snapshot(_ context.Context, yield func(store.Delta) error) (vector.Vector, uint64, error) {
	s.p.r.result.Snapshots++
	return s.p.replica.Snapshot(yield)
}
func (s replicaStore) Adopt(_ context.Context, v vector.Vector, floor uint64) error {
	return s.p.replica.Adopt(v, floor)
}
