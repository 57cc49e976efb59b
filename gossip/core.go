package gossip

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"shoal/gossip/plumtree"
	"shoal/gossip/reconcile"
	"shoal/store"
	"shoal/store/vector"
)

// CoreOptions are what a Core is made of.
type CoreOptions struct {
	Self  plumtree.Peer
	Store Store
	// Random decides with whom to compare, and when.
	Random *rand.Rand
	// Timing and Tree default to those of their packages.
	Timing Timing
	Tree   plumtree.Timing
	// Diverged, if set, gets keys under which two peers with equal vectors
	// held different records, before they are repaired.
	Diverged func(peer plumtree.Peer, differing []reconcile.Difference)
}

// Member is one peer of the cell that is believed to be alive.
type Member struct {
	Name  plumtree.Peer
	Actor vector.Actor
}

// Outgoing is a frame to send. A paced one waits for room on its link; of the
// others an overflow of the link is reported back by Overflowed.
type Outgoing struct {
	To    plumtree.Peer
	Frame Frame
	Paced bool
}

// Merge is to be given to the store, and its end to Merged. From is the link it
// came on.
type Merge struct {
	Token  uint64
	From   plumtree.Peer
	Bytes  int
	Deltas []store.Delta
}

// Closing is a link to close. An empty reason says that it is not needed.
type Closing struct {
	Peer   plumtree.Peer
	Reason string
}

// Output is what calls left to be done.
type Output struct {
	Send  []Outgoing
	Merge []Merge
	Work  []Work
	// Dial names peers to whom a link outside the tree is needed now.
	Dial  []plumtree.Peer
	Close []Closing
}

const never = time.Duration(math.MaxInt64)

// Core is one peer's part in keeping all replicas equal. It is not safe for
// concurrent use.
type Core struct {
	o    CoreOptions
	tree *plumtree.Tree
	// links are sorted by peer, so that equal calls give equal outputs.
	links   []*link
	members []Member
	out     Output

	token  uint64
	merges map[uint64]*merging
	works  map[uint64]func(Result, time.Duration)

	// heldBack is what the store merged and did not claim, until retryHeld.
	heldBack  vector.Vector
	retryHeld time.Duration

	nextExchange time.Duration
	// calling waits until callingUntil for a link to compare over.
	calling      plumtree.Peer
	callingUntil time.Duration

	fetched  *session // begun here
	served   *session // begun by another
	nextSets time.Duration

	// joining until a snapshot was adopted or found to be of no use.
	joining      bool
	snapshot     *taking
	failed       *taking // the one before
	nextSnapshot time.Duration
	giving       int

	// adoptions wait for what is held back; one for each session and snapshot.
	adoptions []adoption

	// raising is the floor that the store is told of just now.
	raising uint64

	suspects []*suspect
	alarm    *Alarm
	counts   Counters
}

// link is one peer that can be sent to.
type link struct {
	peer   plumtree.Peer
	inTree bool
	used   time.Duration

	pushes, compares bucket
	pendingDeltas    int
	pending          int // bytes that wait to be merged
	unasked          int // bytes of answers to no question
	answering        int
	refusals         int    // of snapshots
	gave             uint64 // id of the snapshot given last

	// noted is missing here and there with the peer since notedAt.
	noted   vector.Vector
	notedAt time.Duration
	fetch   fetch

	asked    time.Duration // when compared last, for the round trip
	progress Progress
}

// merging is a Merge under way.
type merging struct {
	from          plumtree.Peer
	bytes, deltas int
	dots          []store.Dot
	then          func(error, time.Duration)
}

// Progress is what is known of one linked peer.
type Progress struct {
	Peer  plumtree.Peer
	Actor vector.Actor
	// Tree: broadcasts go over this link.
	Tree bool
	// Behind is how many deltas we lacked of the peer's at the last exchange,
	// Ahead how many it lacked of ours.
	Behind, Ahead uint64
	// Exchanged is when that was, zero if never. RTT is of that exchange.
	Exchanged, RTT time.Duration
	// PendingBytes came on this link and wait to be merged.
	PendingBytes int
}

// Counters count since the Core was made.
type Counters struct {
	Exchanges, Equal, Wants, FetchedDeltas       uint64
	Sets, SetsFailed, SetKeys                    uint64
	Snapshots, SnapshotsFailed, SnapshotsGiven   uint64
	MergesFailed, LinksCut, Overflows, Divergent uint64
}

// NewCore returns a Core without links.
func NewCore(o CoreOptions) *Core {
	if o.Timing == (Timing{}) {
		o.Timing = DefaultTiming
	}
	if o.Tree == (plumtree.Timing{}) {
		o.Tree = plumtree.DefaultTiming
	}
	c := &Core{
		o: o, tree: plumtree.New(o.Self, o.Tree), nextExchange: never,
		merges: make(map[uint64]*merging), works: make(map[uint64]func(Result, time.Duration)),
		heldBack: vector.Vector{},
	}
	if a, ok := o.Store.(Admission); ok {
		c.joining = a.Joining()
	} else {
		c.joining = c.knowsNothing()
	}
	return c
}

// Connect says that a link exists. Those in the tree carry broadcasts; the
// others are for anti-entropy. It attaches a link that exists.
func (c *Core) Connect(p plumtree.Peer, inTree bool, now time.Duration) {
	l := c.link(p)
	if l == nil {
		l = &link{
			peer: p, used: now, progress: Progress{Peer: p},
			pushes:   bucket{rate: pushRate, burst: pushBurst, tokens: pushBurst, at: now},
			compares: bucket{rate: compareRate, burst: compareBurst, tokens: compareBurst, at: now},
		}
		i, _ := c.find(p)
		c.links = slices.Insert(c.links, i, l)
	}
	if inTree && !l.inTree {
		l.inTree = true
		c.tree.Connect(p)
	}
	switch {
	case c.calling == p:
		c.calling = ""
		c.compare(l, true, now)
	case inTree && (c.o.Self < p || c.joining):
		// One end is enough; the other learns as much.
		c.compare(l, true, now)
	}
}

// Met tells whose link it is, where that is known before the peer compares.
func (c *Core) Met(p plumtree.Peer, actor vector.Actor) {
	if l := c.link(p); l != nil {
		l.progress.Actor = actor
	}
}

// Detach takes a link out of the tree. It closes when it is idle.
func (c *Core) Detach(p plumtree.Peer) {
	if l := c.link(p); l != nil && l.inTree {
		l.inTree = false
		c.tree.Disconnect(p)
	}
}

// Disconnect says that a link is gone.
func (c *Core) Disconnect(p plumtree.Peer, now time.Duration) {
	i, ok := c.find(p)
	if !ok {
		return
	}
	c.links = slices.Delete(c.links, i, i+1)
	c.tree.Disconnect(p)
	for _, s := range []*session{c.fetched, c.served} {
		if s != nil && s.peer == p {
			c.endSession(s, false, now)
		}
	}
	if c.snapshot != nil && c.snapshot.peer == p && !c.snapshot.adopting {
		c.failSnapshot(now)
	}
}

// DialFailed says that a link asked for by Output.Dial cannot be had now.
func (c *Core) DialFailed(p plumtree.Peer) {
	if c.calling == p {
		c.calling = ""
	}
}

// Members says who is alive, oneself included or not. The list is sorted by
// name and not changed by anybody afterwards: many Cores may share one.
func (c *Core) Members(members []Member, now time.Duration) {
	was := len(c.members)
	c.members = members
	if was < 2 && len(members) > 0 {
		c.nextExchange = now
	}
	c.suspects = slices.DeleteFunc(c.suspects, func(s *suspect) bool { return !c.alive(s.peer) })
	c.clearAlarm()
}

func (c *Core) alive(p plumtree.Peer) bool {
	_, ok := slices.BinarySearchFunc(c.members, p, func(m Member, p plumtree.Peer) int {
		return strings.Compare(string(m.Name), string(p))
	})
	return ok
}

// Publish broadcasts what was written here and is durable.
func (c *Core) Publish(deltas []store.Delta, now time.Duration) {
	for i := range deltas {
		c.tree.Broadcast(idOf(deltas[i].Dot), store.AppendDelta(nil, &deltas[i]), now)
	}
	c.flushTree()
}

func idOf(d store.Dot) plumtree.ID {
	return plumtree.ID{Actor: uint64(d.Actor), Sequence: d.Sequence}
}

// Touch says that a link is in use for something else.
func (c *Core) Touch(p plumtree.Peer, now time.Duration) {
	if l := c.link(p); l != nil {
		l.used = now
	}
}

// Overflowed says that what waited for a peer was dropped.
func (c *Core) Overflowed(p plumtree.Peer, now time.Duration) {
	c.counts.Overflows++
	l := c.link(p)
	if l == nil {
		return
	}
	// Its answers and questions may be among what was dropped.
	l.fetch = fetch{}
	for _, s := range []*session{c.fetched, c.served} {
		if s != nil && s.peer == p {
			c.endSession(s, true, now)
		}
	}
	if l.compares.take(1, now) {
		c.compare(l, true, now)
	}
}

// Blocked reports whether nothing more should be read from a peer before some
// of what it sent is merged.
func (c *Core) Blocked(p plumtree.Peer) bool {
	l := c.link(p)
	return l != nil && (l.pending > holdBytes || l.pendingDeltas > holdDeltas)
}

// Take returns the output gathered since the last Take.
func (c *Core) Take() Output {
	out := c.out
	c.out = Output{}
	return out
}

// Counters returns the counters.
func (c *Core) Counters() Counters { return c.counts }

// Tree returns the counters of the broadcast.
func (c *Core) Tree() plumtree.Stats { return c.tree.Stats() }

// Joining reports whether this peer has nothing of the cell yet.
func (c *Core) Joining() bool { return c.joining }

// Alarm returns the alarm that is on, or nil.
func (c *Core) Alarm() *Alarm { return c.alarm }

// Progress returns what is known of the linked peers, sorted.
func (c *Core) Progress() []Progress {
	all := make([]Progress, len(c.links))
	for i, l := range c.links {
		all[i] = l.progress
		all[i].Tree, all[i].PendingBytes = l.inTree, l.pending
	}
	return all
}

func (c *Core) find(p plumtree.Peer) (int, bool) {
	return slices.BinarySearchFunc(c.links, p, func(l *link, p plumtree.Peer) int {
		return strings.Compare(string(l.peer), string(p))
	})
}

func (c *Core) link(p plumtree.Peer) *link {
	if i, ok := c.find(p); ok {
		return c.links[i]
	}
	return nil
}

func (c *Core) send(to plumtree.Peer, kind byte, payload []byte, paced bool) {
	c.out.Send = append(c.out.Send, Outgoing{To: to, Frame: Frame{Kind: kind, Payload: payload}, Paced: paced})
}

// cut ends a link that did what no peer should.
func (c *Core) cut(l *link, reason string, now time.Duration) {
	c.counts.LinksCut++
	c.close(l, reason, now)
}

func (c *Core) close(l *link, reason string, now time.Duration) {
	c.out.Close = append(c.out.Close, Closing{Peer: l.peer, Reason: reason})
	c.Disconnect(l.peer, now)
}
