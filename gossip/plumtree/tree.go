package plumtree

import (
	"math"
	"slices"
	"strings"
	"time"
)

// Timing is how patient a Tree is. All are counted from the call that caused
// them.
type Timing struct {
	// Batch is how long announcements wait for others to travel with them.
	Batch time.Duration
	// Graft is how long an announced payload may be late before it is asked
	// for: longer than the tree's longest path takes more than another.
	Graft time.Duration
	// Retry is how long an answer to that may take before another is asked.
	Retry time.Duration
	// Repeat is when an announcement is first repeated; it doubles from there.
	Repeat time.Duration
}

// DefaultTiming suits a cell whose hosts are some milliseconds apart.
var DefaultTiming = Timing{
	Batch:  10 * time.Millisecond,
	Graft:  120 * time.Millisecond,
	Retry:  60 * time.Millisecond,
	Repeat: 100 * time.Millisecond,
}

const (
	// maxAnnounces is how often one message is announced to one neighbour:
	// with doubling up to eight times Repeat, for about three seconds.
	maxAnnounces    = 6
	maxBackoffShift = 3
	// maxGrafts is how often a payload is asked for before it is left to
	// anti-entropy or the next announcement.
	maxGrafts = 12
	// maxMissing bounds announced messages whose payload is waited for.
	maxMissing = 8192
	// maxSources bounds who is asked for one payload.
	maxSources = 8
	// shorterHops is by how much a path must be shorter for the tree to change
	// over to it. Below this, writers at different places would pull the tree
	// to and fro.
	shorterHops = 6
	// shortenEvery bounds the duplicates that this causes.
	shortenEvery = 2 * time.Second

	never = time.Duration(math.MaxInt64)
)

// Envelope is a message with its destination.
type Envelope struct {
	To      Peer
	Message Message
}

// Delivery is a message that arrived for the first time.
type Delivery struct {
	ID      ID
	From    Peer
	Hops    uint32
	Payload []byte
}

// Output is what a call left to be done, in order.
type Output struct {
	Send    []Envelope
	Deliver []Delivery
}

// Stats count since the Tree was made.
type Stats struct {
	Pushed, Delivered, Duplicates     uint64
	Announced, Grafted, Pruned, Given uint64
	// Expired payloads were asked for when no longer held.
	Expired uint64
}

// Tree is one peer's part in the broadcast.
type Tree struct {
	self    Peer
	timing  Timing
	links   []*link // sorted by peer, so that equal inputs give equal outputs
	cache   cache
	missing map[ID]*missing
	wanted  []*missing // in the order first announced
	nextAsk time.Duration
	// nextShorten is when the tree may next take in a shorter path.
	nextShorten time.Duration
	out         Output
	stats       Stats
}

// missing is a message announced but not received.
type missing struct {
	item    Item
	sources []Peer
	asked   int
	grafts  int
	due     time.Duration
	done    bool
}

// New returns the tree of a peer without links.
func New(self Peer, timing Timing) *Tree {
	return &Tree{self: self, timing: timing, cache: newCache(), missing: make(map[ID]*missing), nextAsk: never}
}

// Connect adds a link. It starts eager and is pruned by its first duplicate.
func (t *Tree) Connect(p Peer) {
	i, ok := t.find(p)
	if ok || p == t.self {
		return
	}
	t.links = slices.Insert(t.links, i, newLink(p))
}

// Disconnect removes a link. What was to come over it is announced by others.
func (t *Tree) Disconnect(p Peer) {
	if i, ok := t.find(p); ok {
		t.links = slices.Delete(t.links, i, i+1)
	}
}

// Broadcast publishes a message of this peer's own, or one it alone holds. It
// reports false if the id is known already.
func (t *Tree) Broadcast(id ID, payload []byte, now time.Duration) bool {
	if t.cache.seen[id] != nil {
		return false
	}
	t.accept(Item{ID: id}, "", payload, now)
	return true
}

// Observe says that a message came by another way, so that its payload is not
// asked for, nor passed on, here.
func (t *Tree) Observe(id ID) {
	if t.cache.seen[id] == nil {
		t.cache.add(id, &seen{})
		t.found(id)
	}
}

// Step takes in a message. One from a peer without a link is ignored.
func (t *Tree) Step(from Peer, m Message, now time.Duration) {
	i, ok := t.find(from)
	if !ok {
		return
	}
	l := t.links[i]
	switch m.Type {
	case Push:
		if len(m.Items) == 1 {
			t.pushed(l, m.Items[0], m.Payload, now)
		}
	case Announce:
		for _, item := range m.Items {
			t.announced(l, item, now)
		}
	case Have:
		for _, item := range m.Items {
			l.settle(item.ID)
		}
	case Graft:
		t.grafted(l, m.Items, now)
	case Prune:
		l.eager = false
	}
}

// Tick lets time pass: batches leave, announcements are repeated, payloads
// that are late are asked for.
func (t *Tree) Tick(now time.Duration) {
	for _, l := range t.links {
		if len(l.haves) > 0 && l.flushAt <= now {
			t.send(l.peer, Message{Type: Have, Items: l.haves})
			l.haves = nil
		}
		if items := l.due(now, &t.timing); len(items) > 0 {
			t.stats.Announced += uint64(len(items))
			t.send(l.peer, Message{Type: Announce, Items: items})
		}
	}
	if t.nextAsk <= now {
		t.ask(now)
	}
}

// Deadline is when Tick next has something to do; false if nothing is waited
// for.
func (t *Tree) Deadline() (time.Duration, bool) {
	at := t.nextAsk
	for _, l := range t.links {
		at = min(at, l.deadline())
	}
	return at, at != never
}

// Take returns the output gathered since the last Take.
func (t *Tree) Take() Output {
	out := t.out
	t.out = Output{}
	return out
}

// Stats returns the counters.
func (t *Tree) Stats() Stats { return t.stats }

// Eager returns the peers that get payloads from here, sorted.
func (t *Tree) Eager() []Peer {
	var peers []Peer
	for _, l := range t.links {
		if l.eager {
			peers = append(peers, l.peer)
		}
	}
	return peers
}

func (t *Tree) find(p Peer) (int, bool) {
	return slices.BinarySearchFunc(t.links, p, func(l *link, p Peer) int {
		return strings.Compare(string(l.peer), string(p))
	})
}

func (t *Tree) send(to Peer, m Message) {
	t.out.Send = append(t.out.Send, Envelope{To: to, Message: m})
}
