package gossip

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"shoal/gossip/plumtree"
	"shoal/gossip/stream"
	"shoal/store/vector"
)

const (
	// helloFor is how long the first frame may take, and byeFor how long a
	// link stays open for the last one to arrive.
	helloFor = 5 * time.Second
	byeFor   = time.Second
	// pacedFrames wait for room on one link.
	pacedFrames = 4 * maxAnswers
	// raceFor: of two links made within so long, both ends keep the same one.
	// Later a second link means that the first is dead.
	raceFor = 3 * time.Second
	// waitForSmaller is how long the peer with the greater name leaves the
	// dialling to the other.
	waitForSmaller = 2 * time.Second
	// retryLeast and retryMost are the pauses between attempts to dial.
	retryLeast = 250 * time.Millisecond
	retryMost  = 15 * time.Second
	// bannedFor is how long a peer that was cut off is not spoken to.
	bannedFor = 30 * time.Second
)

// peerLink is one link with what the Node knows about it.
type peerLink struct {
	*stream.Link
	dialled bool
	tree    bool // by either end
	began   time.Time
	actor   vector.Actor
	paced   chan Frame
	cancel  context.CancelFunc
	calls   outstanding
	serving chan struct{}

	mu   sync.Mutex
	gate chan struct{} // not nil while nothing more is to be read; guarded by mu
	why  error         // guarded by mu
}

var (
	errRefused  = errors.New("refused by the peer")
	errReplaced = errors.New("another link to the same peer is kept")
)

// end closes the link; the first reason counts.
func (l *peerLink) end(why error) {
	l.mu.Lock()
	if l.why == nil {
		l.why = why
	}
	l.mu.Unlock()
	l.cancel()
}

// bye tells the other end why and then ends the link.
func (l *peerLink) bye(why error) {
	l.mu.Lock()
	if l.why == nil {
		l.why = why
	}
	l.mu.Unlock()
	reason := why.Error()
	_ = l.Send(Frame{Kind: kindBye, Payload: []byte(reason[:min(len(reason), maxReasonBytes)])}) // it may be gone
	time.AfterFunc(byeFor, l.cancel)
}

// retire lets requests that are under way end before the link does.
func (l *peerLink) retire() { time.AfterFunc(byeFor, func() { l.end(errReplaced) }) }

func (l *peerLink) ending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why != nil
}

// pass waits while nothing is to be read.
func (l *peerLink) pass(ctx context.Context) {
	l.mu.Lock()
	gate := l.gate
	l.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
}

func (l *peerLink) setGate(closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case closed && l.gate == nil:
		l.gate = make(chan struct{})
	case !closed && l.gate != nil:
		close(l.gate)
		l.gate = nil
	}
}

func (n *Node) linkTo(peer string) *peerLink {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[peer]
}

func (n *Node) openGates() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p, l := range n.links {
		l.setGate(n.core.Blocked(plumtree.Peer(p)))
	}
}

// accept is called by the endpoint for each link others make.
func (n *Node) accept(ctx context.Context, l *stream.Link) {
	if err := n.runLink(ctx, l, false, false); ctx.Err() == nil && !expected(err) {
		n.log.Info("link ended", "peer", l.Peer, "error", err)
	}
}

// runLink says hello, hears it, and moves frames until the link ends. It
// returns why.
func (n *Node) runLink(ctx context.Context, s *stream.Link, dialled, tree bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &peerLink{
		Link: s, dialled: dialled, tree: tree, began: time.Now(), cancel: cancel,
		paced: make(chan Frame, pacedFrames), serving: make(chan struct{}, maxServing),
	}
	if dialled { // the other end judges first
		if err := n.sayHello(l); err != nil {
			return err
		}
	}
	late := time.AfterFunc(helloFor, func() { l.end(errors.New("no hello came")) })
	defer late.Stop()
	var children sync.WaitGroup
	defer children.Wait()
	defer cancel()
	children.Go(func() { l.sendPaced(ctx) })
	greeted := false
	err := l.Run(ctx, func(f Frame) error {
		switch {
		case l.ending():
			return nil // what comes after our goodbye
		case f.Kind == kindBye:
			reason := string(f.Payload[:min(len(f.Payload), maxReasonBytes)])
			n.refusedBy(l.Peer, strings.ToValidUTF8(reason, "?"))
			return fmt.Errorf("%w: %q", errRefused, reason)
		case !greeted:
			greeted = true
			late.Stop()
			return n.greet(ctx, l, f)
		case f.Kind == kindRequest:
			return n.serve(ctx, l, f, &children)
		case f.Kind == kindResponse:
			return l.calls.end(f)
		}
		l.pass(ctx)
		n.do(ctx, func(now time.Duration) {
			if n.linkTo(l.Peer) == l {
				n.core.Receive(plumtree.Peer(l.Peer), f, now)
			}
		})
		return nil
	})
	cancel()
	l.calls.fail(fmt.Errorf("link to %s ended", l.Peer))
	n.do(context.Background(), func(now time.Duration) { n.detach(l, now) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil {
		return l.why
	}
	return err
}

func (n *Node) refusedBy(peer, reason string) {
	if n.o.Refused != nil {
		n.o.Refused(peer, reason)
	}
}

// noVersion is told of a peer that called, or was called, and speaks no version
// that this one does.
func (n *Node) noVersion(peer string, err *stream.VersionError) {
	n.log.Warn("no link with a peer", "peer", peer, "error", err)
	n.refusedBy(peer, err.Error())
}

func (n *Node) sayHello(l *peerLink) error {
	me := hello{Actor: n.o.Store.Actor(), Clock: n.o.Clock(), Tree: l.tree || n.isNeighbour(l.Peer), Features: n.o.Features}
	return l.Send(Frame{Kind: kindHello, Payload: appendHello(nil, me)})
}

func (l *peerLink) sendPaced(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-l.paced:
			if l.SendPaced(ctx, f) != nil {
				return // the link has ended
			}
		}
	}
}

// greet takes in the first frame and has the link registered.
func (n *Node) greet(ctx context.Context, l *peerLink, f Frame) error {
	if f.Kind != kindHello {
		return fmt.Errorf("%s did not say hello: %w", l.Peer, ErrCorrupt)
	}
	h, err := decodeHello(f.Payload)
	if err != nil {
		return err
	}
	l.actor, l.tree = h.Actor, l.tree || h.Tree
	switch {
	case l.Peer == n.o.Name:
		err = fmt.Errorf("another host has the name %s; give one of them another with --name", l.Peer)
	case n.o.Admit != nil:
		err = n.o.Admit(l.Peer, h.Actor, h.Clock)
	}
	if err != nil {
		n.log.Warn("refused a peer", "peer", l.Peer, "reason", err)
		l.bye(err)
		return nil
	}
	if !l.dialled {
		if err := n.sayHello(l); err != nil {
			return err
		}
	}
	n.ask(ctx, func(now time.Duration) { n.attach(l, now) })
	return nil
}

// attach registers a link; it is called in the loop.
func (n *Node) attach(l *peerLink, now time.Duration) {
	peer := plumtree.Peer(l.Peer)
	if until, ok := n.banned[l.Peer]; ok && time.Now().Before(until) {
		l.bye(fmt.Errorf("cut off until %s", until.Format(time.TimeOnly)))
		return
	}
	delete(n.banned, l.Peer)
	tree := l.tree || n.isNeighbour(l.Peer)
	if was := n.linkTo(l.Peer); was != nil {
		smallerDials := n.o.Name < l.Peer
		if was.dialled != l.dialled && l.dialled != smallerDials && time.Since(was.began) < raceFor {
			l.retire()
			if tree {
				n.core.Connect(peer, true, now)
			}
			return
		}
		tree = tree || was.tree
		was.retire()
		n.core.Disconnect(peer, now)
	}
	l.tree = tree
	n.mu.Lock()
	n.links[l.Peer] = l
	close(n.arrived)
	n.arrived = make(chan struct{})
	n.mu.Unlock()
	if d := n.dialled[l.Peer]; d != nil {
		d.failures, d.active = 0, false
	}
	n.core.Connect(peer, tree, now)
	n.core.Met(peer, l.actor)
}

// detach takes a link out that ended; it is called in the loop.
func (n *Node) detach(l *peerLink, now time.Duration) {
	n.mu.Lock()
	current := n.links[l.Peer] == l
	_, doubted := n.doubted[l.Peer]
	if current {
		delete(n.links, l.Peer)
		delete(n.doubted, l.Peer)
	}
	n.mu.Unlock()
	if !current {
		return
	}
	n.core.Disconnect(plumtree.Peer(l.Peer), now)
	if doubted {
		n.tellMembers(now)
	}
}

// closeLink does what the core decided.
func (n *Node) closeLink(c Closing) {
	l := n.linkTo(string(c.Peer))
	if l == nil {
		return
	}
	if c.Reason == "" {
		if l.calls.busy() || len(l.serving) > 0 {
			// Somebody else uses it; the core must know it again.
			n.core.Connect(c.Peer, false, n.now())
			return
		}
		n.detach(l, n.now())
		l.end(errIdle)
		return
	}
	n.detach(l, n.now())
	n.log.Warn("cut off a peer", "peer", string(c.Peer), "reason", c.Reason, "for", bannedFor)
	n.banned[string(c.Peer)] = time.Now().Add(bannedFor)
	l.bye(errors.New(c.Reason))
}

var errIdle = errors.New("not used any more")

func (n *Node) context() context.Context {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == nil {
		return context.Background()
	}
	return n.run
}

// dialling is what is known of attempts to dial one peer; the loop's alone.
type dialling struct {
	active   bool
	failures int
	next     time.Time
	wanted   time.Time // as a neighbour, since
}

// tend looks after the links to neighbours; it is called in the loop.
func (n *Node) tend(ctx context.Context) {
	now := time.Now()
	near := n.neighbours()
	wanted := make(map[string]bool, len(near))
	for _, p := range near {
		wanted[p] = true
		if l := n.linkTo(p); l != nil {
			if !l.tree {
				l.tree = true
				n.core.Connect(plumtree.Peer(p), true, n.now())
			}
			continue
		}
		d := n.dialled[p]
		if d == nil {
			d = &dialling{}
			n.dialled[p] = d
		}
		if d.wanted.IsZero() {
			d.wanted = now
		}
		if n.o.Name < p || now.Sub(d.wanted) >= waitForSmaller {
			n.dial(ctx, p, true)
		}
	}
	n.mu.Lock()
	for p, l := range n.links {
		if d := n.dialled[p]; d != nil && wanted[p] {
			d.wanted = time.Time{}
		}
		if l.tree && l.dialled && !wanted[p] {
			l.tree = false
			n.core.Detach(plumtree.Peer(p))
		}
	}
	n.mu.Unlock()
	for p, d := range n.dialled {
		if !wanted[p] && !d.active && now.After(d.next.Add(retryMost)) {
			delete(n.dialled, p)
		}
	}
	for p, until := range n.banned {
		if now.After(until) {
			delete(n.banned, p)
		}
	}
	n.carryOut(ctx)
}

// dial makes a link unless there is one, or an attempt failed just now; it is
// called in the loop.
func (n *Node) dial(ctx context.Context, peer string, tree bool) {
	d := n.dialled[peer]
	if d == nil {
		d = &dialling{}
		n.dialled[peer] = d
	}
	p, known := n.peer(peer)
	until, banned := n.banned[peer]
	if d.active || time.Now().Before(d.next) || !known || banned && time.Now().Before(until) || n.linkTo(peer) != nil {
		n.core.DialFailed(plumtree.Peer(peer))
		return
	}
	d.active = true
	n.running.Go(func() {
		err := n.dialAndRun(ctx, p, tree)
		if v := (*stream.VersionError)(nil); errors.As(err, &v) {
			n.noVersion(peer, v)
			err = fmt.Errorf("%w: %w", errRefused, err) // it may be upgraded any time, but not in an instant
		}
		if ctx.Err() == nil && !expected(err) {
			n.log.Info("link ended", "peer", peer, "error", err)
		}
		n.do(ctx, func(time.Duration) {
			d.active = false
			n.core.DialFailed(plumtree.Peer(peer))
			switch {
			case errors.Is(err, errRefused):
				d.next = time.Now().Add(retryMost)
			case !expected(err):
				d.next = time.Now().Add(min(retryMost, retryLeast<<min(d.failures, 8)))
				d.failures++
			}
		})
	})
}

// expected ends of links need no words.
func expected(err error) bool {
	return err == nil || errors.Is(err, errIdle) || errors.Is(err, errReplaced) || errors.Is(err, errFailed)
}

func (n *Node) dialAndRun(ctx context.Context, p Peer, tree bool) error {
	l, err := n.endpoint.Dial(ctx, p.StreamAddress, p.Name)
	if err != nil {
		return err
	}
	defer l.Close()
	return n.runLink(ctx, l, true, tree)
}
