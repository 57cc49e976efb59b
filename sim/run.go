package sim

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"shoal/store"
)

// Result is how a run ended.
type Result struct {
	Seed uint64
	// Err is the first thing found wrong; nil if nothing was.
	Err error
	// Trace is equal for equal runs.
	Trace uint64
	// Story is the end of what happened, if Err is set.
	Story string
	// Answered writes, snapshots given, links closed for a reason.
	Answered, Snapshots, Cut int
	// Delivered messages.
	Delivered int
	// Settled is how long after the last fault all were equal.
	Settled time.Duration
	// Tombstones and Chunks are the most that a disk had at the end.
	Tombstones, Chunks int
	// Merges and Works are the most that waited in a core when it was looked at.
	Merges, Works int
	// All of the trace, where Options.Verbose asked for it.
	All string
}

// run is one simulation.
type run struct {
	o      Options
	seed   uint64
	random *rand.Rand
	loop   loop
	grain  time.Duration
	net    *network
	peers  []*peer
	check  *checker
	trace  *trace
	ops    uint64
	result Result
}

// Run simulates one cell. Equal arguments give equal results.
func Run(seed uint64, o Options) Result {
	o.complete()
	r := &run{o: o, seed: seed, random: rand.New(rand.NewPCG(seed, 1)), trace: newTrace(o.Verbose)}
	r.check, r.net = newChecker(r), newNetwork(r)
	r.grain = []time.Duration{time.Microsecond, time.Millisecond, 100 * time.Millisecond}[r.random.IntN(3)]
	for range o.Peers {
		r.newPeer().boot()
	}
	r.startClients()
	r.loop.after(time.Second, r.nemesis)
	r.every(500*time.Millisecond, r.spread)
	if o.Poison {
		r.every(time.Second, r.poison)
	}
	stop := func() bool { return r.check.first != nil }
	r.loop.until(o.Duration, stop)
	if !stop() {
		r.settle(stop)
	}
	r.result.Seed, r.result.Err = seed, r.check.first
	r.result.Trace, r.result.Delivered, r.result.All = r.trace.hash.Sum64(), r.net.delivered, r.trace.all.String()
	if r.check.first != nil {
		r.result.Err = fmt.Errorf("seed %d: %w", seed, r.check.first)
		r.result.Story = r.trace.end(r.check.where)
	}
	return r.result
}

func (r *run) every(d time.Duration, do func()) {
	r.loop.after(d, func() { do(); r.every(d, do) })
}

func (r *run) between(least, most time.Duration) time.Duration {
	return least + time.Duration(r.random.Int64N(int64(most-least)+1))
}

func (r *run) nextOp() uint64 {
	r.ops++
	return r.ops
}

// someUp returns a peer that runs.
func (r *run) someUp() *peer {
	var up []*peer
	for _, p := range r.peers {
		if p.up {
			up = append(up, p)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return up[r.random.IntN(len(up))]
}

// spread tells each peer whom it can reach, as membership does.
func (r *run) spread() {
	for _, p := range r.peers {
		if !p.up || p.replica == nil {
			continue
		}
		var alive []*peer
		for _, q := range r.peers {
			switch {
			case !q.up || q.replica == nil:
			case q == p || r.net.both(p, q):
				alive = append(alive, q)
			default:
				p.proto.linkLost(q)
			}
		}
		p.proto.members(alive)
		p.settle()
	}
}

// spreadSoon is when failure detection has noticed.
func (r *run) spreadSoon() {
	r.loop.after(r.between(100*time.Millisecond, 1500*time.Millisecond), r.spread)
}

func (r *run) statesOf(p *peer) map[string]*state {
	all := make(map[string]*state)
	for _, key := range p.disk.keys {
		if ours(key) {
			all[key] = p.state(key)
		}
	}
	return all
}

func sortedKeys(m map[string]*state) []string { return slices.Sorted(maps.Keys(m)) }

func memberKey(key string) (string, bool) { return strings.CutPrefix(key, store.MembersPrefix) }

// ownMembers are the keys of the records of the actors on this disk.
func (p *peer) ownMembers() (keys []string) {
	for _, key := range []string{"\x00former", "\x00actor"} {
		for b := p.disk.values[key].Value; len(b) >= 8; b = b[8:] {
			keys = append(keys, store.MemberKey(store.Actor(binary.BigEndian.Uint64(b))))
		}
	}
	return keys
}

// remove has somebody delete a member's record, now or later.
func (r *run) remove(key string) {
	p := r.someUp()
	if p != nil {
		if _, err := p.replica.Get(key); err == nil && p.write(store.Update{Key: key, Expect: store.Any, Delete: true}, "") != nil {
			return
		}
		p.settle()
	}
	r.loop.after(500*time.Millisecond, func() { r.remove(key) })
}

// settle ends all faults and waits for the cell to become equal.
func (r *run) settle(stop func() bool) {
	r.trace.note("", r.loop.now, "faults cease")
	clear(r.net.cut)
	clear(r.net.slow)
	r.net.loss, r.net.dup = 0, 0
	r.o.Calm = true
	for _, p := range r.peers {
		p.clock.skew, p.full, p.disk.stopAfter = 0, false, -1
		if p.member && !p.up {
			p.boot()
		}
	}
	r.spread()
	// Until then stamps of clocks that were ahead are held back.
	r.loop.until(r.loop.now+maxJump, stop)
	from := r.loop.now
	for !stop() && !r.equal() {
		if r.loop.now > from+r.o.Settle {
			r.explain()
			return
		}
		r.loop.until(r.loop.now+250*time.Millisecond, stop)
	}
	r.result.Settled = r.loop.now - from
	// What is to expire and to be reaped is gone a little later.
	r.loop.until(r.loop.now+15*time.Second, stop)
	if !stop() {
		r.verify()
	}
}
