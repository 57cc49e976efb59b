package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"shoal/gossip/membership"
	"shoal/gossip/plumtree"
	"shoal/gossip/reconcile"
	"shoal/gossip/stream"
	"shoal/store"
	"shoal/store/vector"
)

// Options of a Node.
type Options struct {
	// Name is the node's, as in its certificate.
	Name  string
	Store Store
	// Gossip is where membership is heard, Streams where links are accepted;
	// port 0 picks one. Advertise is where others reach this host, if not at
	// Gossip's address.
	Gossip, Streams netip.AddrPort
	Advertise       netip.Addr
	// Keys is membership's ring; the first encrypts.
	Keys     [][]byte
	Identity stream.Identity
	// Version is this binary's, API the address of its API (host:port), Tag
	// this peer's number; members tell each other.
	Version, API string
	Tag          store.Tag
	// Tags are further tags; all together take at most 400 bytes.
	Tags map[string]string
	// Seeds, if set, returns addresses (host:port) of members to look for
	// while no other is known.
	Seeds func() []string
	// Admit, if set, refuses a peer by an error that the peer is told.
	Admit func(peer string, actor vector.Actor, clock time.Time) error
	// Versions are of the protocol, by default stream.Current.
	Versions stream.Versions
	// Refused, if set, is told why a peer ended a link with this one, or that
	// the two speak no version in common. It must not block.
	Refused func(peer, reason string)
	// Diverged is CoreOptions.Diverged.
	Diverged func(peer string, differing []reconcile.Difference)
	// Others are served on Streams, too; see stream.Options.
	Others map[string]stream.Other
	// Features are what this binary speaks beyond the protocol's version.
	Features []string
	// Clock is what this peer tells others of its clock; the machine's if nil.
	Clock func() time.Time
	// Membership and Timing may be made faster where all peers are on one host.
	Membership membership.Timing
	Timing     Timing
	Logger     *slog.Logger
}

// Limits of a Node.
const (
	// waitingCalls may wait for the core: several frames for each link.
	waitingCalls = 1024
	// maxPublished deltas and bytes wait to be broadcast; the oldest are left
	// to anti-entropy when more come.
	maxPublished      = 1 << 16
	maxPublishedBytes = 64 << 20
	// mergeAtOnce bytes are given to the store in one call.
	mergeAtOnce = 4 << 20
	// mergeEvery is how soon after one merge the next may begin: what comes
	// meanwhile shares its sync and its commit. A write that comes alone is
	// merged at once, and a merge that takes longer is followed at once.
	mergeEvery = 10 * time.Millisecond
	// maxWorks are done at a time, apart from snapshots, which wait for their
	// receiver.
	maxWorks = 4
	// tendEvery is how often links are looked after.
	tendEvery = 500 * time.Millisecond
	// seedEvery is how often members are looked for while there are none.
	seedEvery = 3 * time.Second
)

// Node is a running peer. It is made by New; Run must be called.
type Node struct {
	o        Options
	log      *slog.Logger
	members  *membership.Membership
	endpoint *stream.Endpoint
	listener net.Listener
	began    time.Time

	// core and what is below it belong to the loop.
	core    *Core
	dialled map[string]*dialling
	banned  map[string]time.Time

	calls     chan func(now time.Duration)
	published publications
	merges    mergeQueue
	works     chan struct{}
	// stopped is closed when the loop takes no more calls.
	stopped chan struct{}
	running sync.WaitGroup

	handlers map[string]Handler // not changed once it runs

	mu      sync.Mutex
	links   map[string]*peerLink       // guarded by mu; changed by the loop alone
	arrived chan struct{}              // closed and made anew when a link comes; guarded by mu
	peers   []Peer                     // guarded by mu
	watches map[chan struct{}]struct{} // guarded by mu
	lost    map[string]string          // addresses of failed members by name; guarded by mu
	doubted map[string]Peer            // failed members that have a link still; guarded by mu
	run     context.Context            // of Run; guarded by mu
}

// Peer is a member that is believed to be alive.
type Peer struct {
	Name string
	// Address is the host's; StreamAddress, host:port, where it accepts links.
	Address       netip.Addr
	StreamAddress string
	Actor         vector.Actor
	Tag           store.Tag
	// API is host:port; Version its binary's.
	API, Version string
	Tags         map[string]string
}

// New listens on both ports.
func New(o Options) (_ *Node, err error) {
	if o.Name == "" || o.Store == nil {
		return nil, errors.New("make gossip node: a name and a store are needed")
	}
	o.Logger = cmp.Or(o.Logger, slog.Default())
	if o.Clock == nil {
		o.Clock = time.Now
	}
	n := &Node{
		o: o, log: o.Logger, began: time.Now(),
		dialled: make(map[string]*dialling), banned: make(map[string]time.Time),
		calls: make(chan func(time.Duration), waitingCalls), works: make(chan struct{}, maxWorks), stopped: make(chan struct{}),
		handlers: make(map[string]Handler), links: make(map[string]*peerLink), arrived: make(chan struct{}),
		watches: make(map[chan struct{}]struct{}), lost: make(map[string]string), doubted: make(map[string]Peer),
	}
	n.published.filled, n.merges.filled = make(chan struct{}, 1), make(chan struct{}, 1)
	transport := stream.TCP{Address: o.Streams.String()}
	if n.endpoint, err = stream.New(stream.Options{Transport: transport, Identity: o.Identity, Others: o.Others, Versions: o.Versions, Refused: n.noVersion, Logger: o.Logger}); err != nil {
		return nil, err
	}
	if n.listener, err = transport.Listen(context.Background()); err != nil {
		return nil, fmt.Errorf("listen for peers on %s: %w", o.Streams, err)
	}
	defer func() {
		if err != nil {
			n.listener.Close()
		}
	}()
	if n.members, err = membership.Start(n.membership()); err != nil {
		return nil, err
	}
	var diverged func(plumtree.Peer, []reconcile.Difference)
	if o.Diverged != nil {
		diverged = func(p plumtree.Peer, d []reconcile.Difference) { o.Diverged(string(p), d) }
	}
	n.core = NewCore(CoreOptions{
		Self: plumtree.Peer(o.Name), Store: o.Store, Random: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		Timing: o.Timing, Diverged: diverged,
	})
	n.refresh()
	return n, nil
}

func (n *Node) membership() membership.Options {
	o := membership.Options{
		Name: n.o.Name, Listen: n.o.Gossip, Keys: n.o.Keys, Tags: n.tags(), Timing: n.o.Membership, Logger: n.log,
	}
	if n.o.Advertise.IsValid() {
		o.Advertise = netip.AddrPortFrom(n.o.Advertise, n.o.Gossip.Port())
	}
	return o
}

// Address is where membership is heard.
func (n *Node) Address() netip.AddrPort { return n.members.Address() }

// StreamAddress is where links are accepted.
func (n *Node) StreamAddress() string { return n.listener.Addr().String() }

// Run takes part in the cell until ctx ends. It does not leave the cell.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n.mu.Lock()
	n.run = ctx
	n.mu.Unlock()
	for _, part := range []func(context.Context) error{
		n.members.Run, n.loop, n.mergeLoop, n.watchMembers, n.seed, n.rejoin,
		func(ctx context.Context) error { return n.endpoint.ServeOn(ctx, n.listener, n.accept) },
	} {
		n.running.Go(func() {
			if err := part(ctx); err != nil {
				cancel(err)
			}
		})
	}
	<-ctx.Done()
	n.running.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// loop drives the core.
func (n *Node) loop(ctx context.Context) error {
	defer close(n.stopped)
	timer := time.NewTimer(0)
	defer timer.Stop()
	tend := time.NewTicker(tendEvery)
	defer tend.Stop()
	n.tellMembers(n.now())
	for {
		n.carryOut(ctx)
		if at, ok := n.core.Deadline(); ok {
			timer.Reset(max(0, at-n.now()))
		}
		select {
		case <-ctx.Done():
			return nil
		case call := <-n.calls:
			call(n.now())
		case <-n.published.filled:
			n.core.Publish(n.published.take(), n.now())
		case <-timer.C:
			n.core.Tick(n.now())
		case <-tend.C:
			n.tend(ctx)
		}
	}
}

func (n *Node) now() time.Duration { return time.Since(n.began) }

// do runs call in the loop and reports whether it will.
func (n *Node) do(ctx context.Context, call func(now time.Duration)) bool {
	select {
	case n.calls <- call:
		return true
	case <-n.stopped:
	case <-ctx.Done():
	}
	return false
}

// ask runs call in the loop and waits for it.
func (n *Node) ask(ctx context.Context, call func(now time.Duration)) bool {
	done := make(chan struct{})
	if !n.do(ctx, func(now time.Duration) { call(now); close(done) }) {
		return false
	}
	select {
	case <-done:
		return true
	case <-n.stopped:
	case <-ctx.Done():
	}
	return false
}

// carryOut does what the core asks for, without waiting for anything.
func (n *Node) carryOut(ctx context.Context) {
	for again := true; again; {
		again = false
		out := n.core.Take()
		for _, o := range out.Send {
			again = n.send(o) || again
		}
		for _, m := range out.Merge {
			n.merges.add(m)
		}
		for _, w := range out.Work {
			n.running.Go(func() { n.work(ctx, w) })
		}
		for _, p := range out.Dial {
			n.dial(ctx, string(p), false)
		}
		for _, c := range out.Close {
			n.closeLink(c)
			again = true
		}
	}
	n.openGates()
}

// send reports whether the core has to be looked at again.
func (n *Node) send(o Outgoing) bool {
	l := n.linkTo(string(o.To))
	if l == nil {
		return false
	}
	if o.Paced {
		select {
		case l.paced <- o.Frame:
		default:
			n.closeLink(Closing{Peer: o.To, Reason: "asks for more than it takes in"})
		}
		return false
	}
	if err := l.Send(o.Frame); errors.Is(err, stream.ErrOverflow) {
		n.core.Overflowed(o.To, n.now())
		return true
	}
	return false
}

// work is bounded by how much the core lets each link ask for.
func (n *Node) work(ctx context.Context, w Work) {
	if !w.Snapshot() {
		select {
		case n.works <- struct{}{}:
			defer func() { <-n.works }()
		case <-ctx.Done():
			return
		}
	}
	r := w.Do(ctx, n.o.Store, func(f Frame) error {
		l := n.linkTo(string(w.To))
		if l == nil {
			return stream.ErrClosed
		}
		return l.SendPaced(ctx, f)
	})
	if r.err != nil && ctx.Err() == nil {
		n.log.Warn("work for peers", "peer", string(w.To), "error", r.err)
	}
	n.do(ctx, func(now time.Duration) { n.core.Finish(w.Token, r, now) })
}

// Publish broadcasts deltas written here. It never blocks.
func (n *Node) Publish(deltas []store.Delta) {
	if lost := n.published.add(deltas); lost > 0 {
		n.log.Warn("more is written than can be broadcast; peers fetch the rest", "deltas", lost)
	}
}

// publications wait to be broadcast.
type publications struct {
	mu     sync.Mutex
	deltas []store.Delta // guarded by mu
	bytes  int           // guarded by mu
	filled chan struct{}
}

func (p *publications) add(deltas []store.Delta) (lost int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range deltas {
		p.bytes += size(&deltas[i])
	}
	p.deltas = append(p.deltas, deltas...)
	for len(p.deltas) > maxPublished || p.bytes > maxPublishedBytes && len(p.deltas) > 1 {
		p.bytes -= size(&p.deltas[0])
		p.deltas = p.deltas[1:]
		lost++
	}
	signal(p.filled)
	return lost
}

func (p *publications) take() []store.Delta {
	p.mu.Lock()
	defer p.mu.Unlock()
	deltas := p.deltas
	p.deltas, p.bytes = nil, 0
	return deltas
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// mergeQueue waits for the store; the core bounds it for each link.
type mergeQueue struct {
	mu     sync.Mutex
	merges []Merge // guarded by mu
	filled chan struct{}
}

func (q *mergeQueue) add(m Merge) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.merges = append(q.merges, m)
	signal(q.filled)
}

// take returns the first, up to mergeAtOnce bytes of them.
func (q *mergeQueue) take() []Merge {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.merges) && (n == 0 || bytes+q.merges[n].Bytes <= mergeAtOnce) {
		bytes += q.merges[n].Bytes
		n++
	}
	taken := slices.Clone(q.merges[:n])
	clear(q.merges[:n])
	if q.merges = q.merges[n:]; len(q.merges) > 0 {
		signal(q.filled)
	}
	return taken
}

// mergeLoop gives to the store at once what gathered during the commit before.
func (n *Node) mergeLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.merges.filled:
		}
		next := time.After(mergeEvery)
		merges := n.merges.take()
		var all []store.Delta
		for _, m := range merges {
			all = append(all, m.Deltas...)
		}
		errs := make([]error, len(merges))
		if err := n.o.Store.Merge(ctx, all); err != nil && ctx.Err() == nil {
			// What one peer sent must not fail what others did.
			for i, m := range merges {
				if errs[i] = n.o.Store.Merge(ctx, m.Deltas); errs[i] != nil {
					n.log.Warn("merge records of a peer", "peer", string(m.From), "error", errs[i])
				}
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		n.do(ctx, func(now time.Duration) {
			for i, m := range merges {
				n.core.Merged(m.Token, errs[i], now)
			}
		})
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		}
	}
}
