package plumtree

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// fleet is a simulated cell: its clock, its network and its peers' trees, all
// from one seed.
type fleet struct {
	t       testing.TB
	rand    *rand.Rand
	now     time.Duration
	events  events
	order   uint64
	peers   []Peer
	trees   map[Peer]*Tree
	ticks   map[Peer]time.Duration
	down    map[Peer]bool
	loss    float64
	arrived map[ID]map[Peer]time.Duration
	born    map[ID]time.Duration
	pushes  int
}

type event struct {
	at       time.Duration
	order    uint64
	from, to Peer
	message  *Message // nil is a tick
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newFleet(t testing.TB, n int, seed uint64) *fleet {
	t.Logf("seed %d", seed)
	f := &fleet{
		t: t, rand: rand.New(rand.NewPCG(seed, 1)), trees: map[Peer]*Tree{}, ticks: map[Peer]time.Duration{},
		down: map[Peer]bool{}, arrived: map[ID]map[Peer]time.Duration{}, born: map[ID]time.Duration{},
	}
	for i := range n {
		f.peers = append(f.peers, Peer(fmt.Sprintf("host-%04d", i)))
	}
	links := ringLinks(f.peers, DefaultRings)
	for _, p := range f.peers {
		tree := New(p, DefaultTiming)
		for _, q := range links[p] {
			tree.Connect(q)
		}
		f.trees[p] = tree
	}
	return f
}

// ringLinks is Neighbours for all members at once, which sorts each ring only
// once. TestNeighbours holds the two against each other.
func ringLinks(members []Peer, rings int) map[Peer][]Peer {
	links := map[Peer][]Peer{}
	for ring := range rings {
		order := slices.Clone(members)
		slices.SortFunc(order, func(a, b Peer) int {
			if x, y := ringHash(ring, a), ringHash(ring, b); x < y {
				return -1
			} else if x > y {
				return 1
			}
			return 0
		})
		for i, p := range order {
			q := order[(i+1)%len(order)]
			if p != q && !slices.Contains(links[p], q) {
				links[p] = append(links[p], q)
				links[q] = append(links[q], p)
			}
		}
	}
	return links
}

// drain takes a tree's output, puts it on the network and plans its next tick.
func (f *fleet) drain(p Peer) {
	tree := f.trees[p]
	out := tree.Take()
	for _, d := range out.Deliver {
		if _, twice := f.arrived[d.ID][p]; twice {
			f.t.Fatalf("%s was given %v twice", p, d.ID)
		}
		f.arrived[d.ID][p] = f.now
	}
	for _, e := range out.Send {
		if e.Message.Type == Push {
			f.pushes++
		}
		if f.rand.Float64() < f.loss {
			continue
		}
		latency := 3*time.Millisecond + time.Duration(f.rand.Int64N(int64(9*time.Millisecond)))
		f.plan(event{at: f.now + latency, from: p, to: e.To, message: &e.Message})
	}
	if at, ok := tree.Deadline(); ok && (f.ticks[p] <= f.now || at < f.ticks[p]) {
		f.ticks[p] = max(at, f.now)
		f.plan(event{at: f.ticks[p], to: p})
	}
}

func (f *fleet) plan(e event) {
	f.order++
	e.order = f.order
	heap.Push(&f.events, e)
}

// run lets simulated time pass.
func (f *fleet) run(d time.Duration) {
	end := f.now + d
	for len(f.events) > 0 && f.events[0].at <= end {
		e := heap.Pop(&f.events).(event)
		f.now = e.at
		if f.down[e.to] || f.down[e.from] {
			continue
		}
		if e.message == nil {
			f.trees[e.to].Tick(f.now)
		} else {
			f.trees[e.to].Step(e.from, *e.message, f.now)
		}
		f.drain(e.to)
	}
	f.now = end
}

func (f *fleet) write(sequence uint64) ID {
	at := f.rand.IntN(len(f.peers))
	for f.down[f.peers[at]] {
		at = f.rand.IntN(len(f.peers))
	}
	id := ID{Actor: uint64(at), Sequence: sequence}
	f.arrived[id] = map[Peer]time.Duration{f.peers[at]: f.now}
	f.born[id] = f.now
	if !f.trees[f.peers[at]].Broadcast(id, []byte("payload"), f.now) {
		f.t.Fatalf("%v is known before it is written", id)
	}
	f.drain(f.peers[at])
	return id
}

// reach returns how long each write took to reach all who are up.
func (f *fleet) reach(ids []ID) []time.Duration {
	var times []time.Duration
	for _, id := range ids {
		last := time.Duration(0)
		for _, p := range f.peers {
			at, ok := f.arrived[id][p]
			if !ok && !f.down[p] {
				f.t.Fatalf("%v never reached %s", id, p)
			}
			last = max(last, at-f.born[id])
		}
		times = append(times, last)
	}
	slices.Sort(times)
	return times
}

func (f *fleet) writes(n int, every time.Duration) []ID {
	var ids []ID
	for i := range n {
		ids = append(ids, f.write(uint64(len(f.born))+1))
		if i < n-1 {
			f.run(every)
		}
	}
	f.run(10 * time.Second)
	return ids
}

func percentile(sorted []time.Duration, p float64) time.Duration {
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

func sizes(t *testing.T) []int {
	if testing.Short() {
		return []int{2, 50, 300}
	}
	return []int{2, 50, 1000, 5000}
}

// TestSteady: once the tree stands, a lossless network carries hardly more
// than one copy of each payload to each peer.
func TestSteady(t *testing.T) {
	for _, n := range sizes(t) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			copies, times := steadyCopies(t, n)
			t.Logf("%.3f copies per peer, all reached p50 %v, max %v", copies, percentile(times, .5), times[len(times)-1])
			if copies > 1.2 {
				t.Errorf("%.3f payload copies per peer, want at most 1.2", copies)
			}
		})
	}
}

// TestLoss: with a quarter of all messages lost, each write reaches all, 99 of
// 100 within 1.5 s.
func TestLoss(t *testing.T) {
	for _, n := range sizes(t) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			times := reachDespiteLoss(t, n)
			p99 := percentile(times, .99)
			t.Logf("all reached p50 %v, p99 %v", percentile(times, .5), p99)
			if p99 > 1500*time.Millisecond {
				t.Errorf("p99 is %v, want at most 1.5 s", p99)
			}
		})
	}
}

// steadyCopies returns how many copies of a payload a peer is sent once the tree
// stands, and how long the writes took to reach all.
func steadyCopies(t testing.TB, n int) (float64, []time.Duration) {
	f := newFleet(t, n, 7)
	f.reach(f.writes(20, 200*time.Millisecond))
	f.pushes = 0
	const writes = 40
	times := f.reach(f.writes(writes, 50*time.Millisecond))
	return float64(f.pushes) / float64(writes) / float64(n-1), times
}

// reachDespiteLoss returns how long writes took to reach all while a quarter of
// the messages is lost.
func reachDespiteLoss(t testing.TB, n int) []time.Duration {
	f := newFleet(t, n, 11)
	f.reach(f.writes(10, 100*time.Millisecond))
	f.loss = 0.25
	writes := min(100, 100_000/n) // simulating 5,000 peers takes its time
	return f.reach(f.writes(writes, 50*time.Millisecond))
}

const figurePeers = 5000

// BenchmarkFleetSteady and BenchmarkFleetLoss give the figures of the tests
// above in simulated time, for a whole fleet.
func BenchmarkFleetSteady(b *testing.B) {
	for b.Loop() {
		copies, times := steadyCopies(b, figurePeers)
		b.ReportMetric(copies, "copies/peer")
		b.ReportMetric(float64(percentile(times, .99).Milliseconds()), "p99-ms")
	}
}

func BenchmarkFleetLoss(b *testing.B) {
	for b.Loop() {
		times := reachDespiteLoss(b, figurePeers)
		b.ReportMetric(float64(percentile(times, .5).Milliseconds()), "p50-ms")
		b.ReportMetric(float64(percentile(times, .99).Milliseconds()), "p99-ms")
	}
}

// TestCrash: a third of the peers vanish; the others still reach each other,
// also before anyone has told them.
func TestCrash(t *testing.T) {
	for seed := range uint64(3) {
		f := newFleet(t, 300, 100+seed)
		f.reach(f.writes(10, 100*time.Millisecond))
		for _, i := range f.rand.Perm(len(f.peers))[:100] {
			f.down[f.peers[i]] = true
		}
		times := f.reach(f.writes(20, 50*time.Millisecond))
		t.Logf("before they are told: p50 %v, max %v", percentile(times, .5), times[len(times)-1])
		f.relink()
		f.reach(f.writes(10, 100*time.Millisecond))
		f.pushes = 0
		f.reach(f.writes(10, 100*time.Millisecond))
		if copies := float64(f.pushes) / 10 / 199; copies > 1.2 {
			t.Errorf("%.3f copies per peer after the repair, want at most 1.2", copies)
		}
	}
}

// relink gives those who are up the links that Neighbours chooses for them.
func (f *fleet) relink() {
	up := slices.DeleteFunc(slices.Clone(f.peers), func(p Peer) bool { return f.down[p] })
	links := ringLinks(up, DefaultRings)
	for _, p := range up {
		tree := f.trees[p]
		for _, l := range slices.Clone(tree.links) {
			if !slices.Contains(links[p], l.peer) {
				tree.Disconnect(l.peer)
			}
		}
		for _, q := range links[p] {
			tree.Connect(q)
		}
	}
}

// TestReplay: one seed, one history.
func TestReplay(t *testing.T) {
	history := func(seed uint64) string {
		f := newFleet(t, 60, seed)
		f.loss = 0.3
		ids := f.writes(10, 30*time.Millisecond)
		return fmt.Sprint(f.reach(ids), f.pushes, f.order)
	}
	if a, b := history(5), history(5); a != b {
		t.Errorf("one seed gave two histories:\n%s\n%s", a, b)
	}
	if history(5) == history(6) {
		t.Error("two seeds gave one history")
	}
}
