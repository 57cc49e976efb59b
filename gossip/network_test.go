package gossip

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"shoal/gossip/plumtree"
	"shoal/store"
	"shoal/store/vector"
)

// network runs Cores over replicas in simulated time.
type network struct {
	t       testing.TB
	random  *rand.Rand
	now     time.Duration
	peers   []*simPeer
	byName  map[plumtree.Peer]*simPeer
	events  events
	order   uint64
	loss    float64
	repeat  float64
	ordered bool // as links are
	mergeIn time.Duration
	cutOff  func(a, b plumtree.Peer) bool
	timing  Timing
	bytes   map[byte]int
	closed  []string
}

type simPeer struct {
	name    plumtree.Peer
	core    *Core
	replica *replica
	links   map[plumtree.Peer]bool
	down    bool
}

type event struct {
	at    time.Duration
	order uint64
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func newNetwork(t testing.TB, seed uint64, peers, logMax int) *network {
	n := &network{
		t: t, random: rand.New(rand.NewPCG(seed, 1)), byName: map[plumtree.Peer]*simPeer{}, mergeIn: 3 * time.Millisecond,
		timing: DefaultTiming, bytes: map[byte]int{}, cutOff: func(a, b plumtree.Peer) bool { return false },
	}
	n.timing.Answer, n.timing.Session = time.Second, 3*time.Second
	for i := range peers {
		n.add(fmt.Sprintf("peer-%02d", i), newReplica(vector.Actor(i+1), logMax))
	}
	return n
}

func (n *network) add(name string, r *replica) *simPeer {
	p := &simPeer{name: plumtree.Peer(name), replica: r, links: map[plumtree.Peer]bool{}}
	n.peers = append(n.peers, p)
	n.byName[p.name] = p
	n.boot(p)
	return p
}

func (n *network) boot(p *simPeer) {
	p.down = false
	p.core = NewCore(CoreOptions{
		Self: p.name, Store: p.replica, Random: rand.New(rand.NewPCG(uint64(p.replica.actor), n.random.Uint64())), Timing: n.timing,
	})
}

func (n *network) after(d time.Duration, do func()) {
	n.order++
	heap.Push(&n.events, event{n.now + d, n.order, do})
}

// join links all neighbours that can reach each other and tells everybody who
// is there.
func (n *network) join() {
	var names []plumtree.Peer
	for _, p := range n.peers {
		if !p.down {
			names = append(names, p.name)
		}
	}
	for _, p := range n.peers {
		if p.down {
			continue
		}
		var members []Member
		for _, m := range names {
			if !n.cutOff(p.name, m) {
				members = append(members, Member{m, n.byName[m].replica.actor})
			}
		}
		p.core.Members(members, n.now)
		n.drain(p)
		for _, q := range plumtree.Neighbours(p.name, names, plumtree.DefaultRings) {
			n.connect(p, n.byName[q], true)
		}
	}
}

func (n *network) connect(p, q *simPeer, tree bool) {
	if p.links[q.name] || q.down || p.down || n.cutOff(p.name, q.name) {
		return
	}
	p.links[q.name], q.links[p.name] = true, true
	p.core.Connect(q.name, tree, n.now)
	q.core.Connect(p.name, tree, n.now)
	n.drain(p)
	n.drain(q)
}

func (n *network) disconnect(p, q *simPeer) {
	if !p.links[q.name] {
		return
	}
	delete(p.links, q.name)
	delete(q.links, p.name)
	p.core.Disconnect(q.name, n.now)
	q.core.Disconnect(p.name, n.now)
	n.drain(p)
	n.drain(q)
}

func (n *network) kill(p *simPeer) {
	for q := range p.links {
		n.disconnect(p, n.byName[q])
	}
	p.down = true
	n.join()
}

func (n *network) deliver(from, to *simPeer, f Frame) {
	n.bytes[f.Kind] += len(f.Payload) + 5
	if n.random.Float64() < n.loss {
		return
	}
	core := to.core
	arrive := func() {
		if to.core == core && to.links[from.name] {
			to.core.Receive(from.name, f, n.now)
			n.drain(to)
		}
	}
	delay := 2 * time.Millisecond
	if !n.ordered {
		delay = time.Millisecond + time.Duration(n.random.Int64N(int64(4*time.Millisecond)))
	}
	n.after(delay, arrive)
	if n.random.Float64() < n.repeat {
		n.after(time.Duration(n.random.Int64N(int64(20*time.Millisecond))), arrive)
	}
}

// drain does what a Core asks for.
func (n *network) drain(p *simPeer) {
	core := p.core
	out := core.Take()
	for _, o := range out.Send {
		if q := n.byName[o.To]; p.links[o.To] {
			n.deliver(p, q, o.Frame)
		}
	}
	for _, m := range out.Merge {
		n.after(n.mergeIn, func() {
			if p.core == core {
				core.Merged(m.Token, p.replica.Merge(context.Background(), m.Deltas), n.now)
				n.drain(p)
			}
		})
	}
	for _, w := range out.Work {
		n.after(time.Millisecond, func() {
			if p.core != core {
				return
			}
			r := w.Do(context.Background(), p.replica, func(f Frame) error {
				if !p.links[w.To] {
					return context.Canceled
				}
				n.deliver(p, n.byName[w.To], f)
				return nil
			})
			core.Finish(w.Token, r, n.now)
			n.drain(p)
		})
	}
	for _, d := range out.Dial {
		n.after(2*time.Millisecond, func() { n.connect(p, n.byName[d], false) })
	}
	for _, c := range out.Close {
		if c.Reason != "" {
			n.closed = append(n.closed, fmt.Sprintf("%s cut %s: %s", p.name, c.Peer, c.Reason))
		}
		n.disconnect(p, n.byName[c.Peer])
	}
}

// run lets time pass until done or for at most d.
func (n *network) run(d time.Duration, done func() bool) bool {
	end := n.now + d
	for n.now < end {
		at := end
		for _, p := range n.peers {
			if due, ok := p.core.Deadline(); ok && !p.down {
				at = min(at, max(due, n.now))
			}
		}
		if len(n.events) > 0 && n.events[0].at <= at {
			e := heap.Pop(&n.events).(event)
			n.now = max(n.now, e.at)
			e.do()
		} else {
			n.now = at
			for _, p := range n.peers {
				if due, ok := p.core.Deadline(); ok && !p.down && due <= n.now {
					p.core.Tick(n.now)
					n.drain(p)
					if due, ok := p.core.Deadline(); ok && due <= n.now {
						n.t.Fatalf("%s: Tick at %v left something due at %v", p.name, n.now, due)
					}
				}
			}
		}
		if done != nil && done() {
			return true
		}
	}
	return done == nil
}

func (n *network) write(p *simPeer, key, value string) {
	d := p.replica.write(key, value)
	p.core.Publish([]store.Delta{d}, n.now)
	n.drain(p)
}

// equal reports whether all peers that are up hold the same.
func (n *network) equal() bool {
	var first *simPeer
	for _, p := range n.peers {
		switch {
		case p.down:
		case first == nil:
			first = p
		case !p.replica.held.Equal(first.replica.held):
			return false
		}
	}
	for _, p := range n.peers {
		if !p.down && p.replica.state() != first.replica.state() {
			n.t.Fatalf("%s: %s; %s: %s, with equal vectors", p.name, p.replica.state(), first.name, first.replica.state())
		}
	}
	return true
}

func (n *network) mustConverge(d time.Duration) time.Duration {
	n.t.Helper()
	began := n.now
	if !n.run(d, n.equal) {
		for _, p := range n.peers {
			n.t.Logf("%s: %s, vector %v, %+v, joining %v", p.name, p.replica.state(), p.replica.held, p.core.counts, p.core.joining)
		}
		n.t.Fatalf("not equal after %v; closed: %v", d, n.closed)
	}
	return n.now - began
}
