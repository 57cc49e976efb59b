package gossip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"shoal/gossip/membership"
	"shoal/gossip/plumtree"
	"shoal/store"
	"shoal/store/vector"
)

// The tags by which members tell each other about themselves.
const (
	actorTag   = "actor"
	streamTag  = "stream"
	apiTag     = "api"
	versionTag = "version"
	numberTag  = "tag"
)

const (
	// doubtFor is how long a member that failed may take to answer on its link:
	// a busy host does within this, and after a cut it is little beside the
	// seconds that finding it failed has taken.
	doubtFor = 3 * time.Second
	// maxLost members that failed are looked for, maxProbed at a time.
	maxLost     = 4096
	maxProbed   = 8
	rejoinEvery = time.Second
)

func (n *Node) tags() map[string]string {
	tags := maps.Clone(n.o.Tags)
	if tags == nil {
		tags = make(map[string]string)
	}
	_, port, _ := net.SplitHostPort(n.StreamAddress())
	tags[actorTag] = formatActor(n.o.Store.Actor())
	tags[streamTag] = port
	tags[numberTag] = strconv.Itoa(int(n.o.Tag))
	if n.o.API != "" {
		tags[apiTag] = n.o.API
	}
	if n.o.Version != "" {
		tags[versionTag] = n.o.Version
	}
	return tags
}

func formatActor(a vector.Actor) string { return strconv.FormatUint(uint64(a), 16) }

func peerOf(m membership.Member) Peer {
	actor, _ := strconv.ParseUint(m.Tags[actorTag], 16, 64)
	tag, _ := strconv.ParseUint(m.Tags[numberTag], 10, 16)
	p := Peer{
		Name: m.Name, Address: m.Address.Addr(), Actor: vector.Actor(actor), Tag: store.Tag(tag),
		API: m.Tags[apiTag], Version: m.Tags[versionTag], Tags: m.Tags,
	}
	if port, err := strconv.ParseUint(m.Tags[streamTag], 10, 16); err == nil {
		p.StreamAddress = netip.AddrPortFrom(p.Address, uint16(port)).String()
	}
	return p
}

// watchMembers follows membership, and tells it when the store became a new
// actor.
func (n *Node) watchMembers(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	actor := n.o.Store.Actor()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-n.members.Events():
			n.do(ctx, func(time.Duration) { n.changed(e) })
		case <-tick.C:
			if now := n.o.Store.Actor(); now != actor {
				if err := n.members.SetTag(actorTag, formatActor(now)); err != nil {
					n.log.Warn("tell members of the new actor", "error", err)
				} else {
					actor = now
				}
			}
		}
		if n.refresh() {
			n.do(ctx, func(now time.Duration) {
				n.tellMembers(now)
				n.tend(ctx)
			})
		}
	}
}

// changed takes in one event of membership; it is called in the loop.
func (n *Node) changed(e membership.Event) {
	name := e.Member.Name
	switch e.Kind {
	case membership.Failed:
		n.mu.Lock()
		if len(n.lost) < maxLost {
			n.lost[name] = e.Member.Address.String()
		}
		n.mu.Unlock()
		if l := n.linkTo(name); l != nil {
			n.doubt(peerOf(e.Member), l)
		}
	case membership.Joined, membership.Left, membership.Forgotten:
		n.mu.Lock()
		delete(n.lost, name)
		delete(n.doubted, name)
		n.mu.Unlock()
		if d := n.dialled[name]; d != nil {
			d.failures, d.next = 0, time.Time{}
		}
	}
}

// doubt asks a peer that membership calls failed over the link there is. If it
// answers, records go on travelling: packets of membership are the first to be
// lost on a host that is flooded. If not, the link ends now, as TCP would go on
// with what waits long after the peer is back.
func (n *Node) doubt(p Peer, l *peerLink) {
	n.mu.Lock()
	n.doubted[p.Name] = p
	n.mu.Unlock()
	n.running.Go(func() {
		ctx, cancel := context.WithTimeout(n.context(), doubtFor)
		defer cancel()
		if l.answers(ctx) {
			return
		}
		n.do(n.context(), func(now time.Duration) {
			if n.linkTo(p.Name) == l {
				n.detach(l, now)
			}
			l.end(errFailed)
		})
	})
}

// answers reports whether the other end says anything to a request, be it that
// it does not know it.
func (l *peerLink) answers(ctx context.Context) bool {
	_, err := l.call(ctx, "are-you-there", nil)
	return err == nil || errors.As(err, new(*RemoteError))
}

var errFailed = errors.New("membership says that the peer has failed")

// rejoin looks whether members that failed answer again, which after a cut on
// the network serf itself does only twice a minute.
func (n *Node) rejoin(ctx context.Context) error {
	tick := time.NewTicker(rejoinEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var probes sync.WaitGroup
		for _, address := range n.someLost() {
			probes.Go(func() {
				conn, err := (&net.Dialer{Timeout: rejoinEvery}).DialContext(ctx, "tcp", address)
				if err != nil {
					return
				}
				conn.Close()
				if _, err := n.Join([]string{address}); err != nil {
					n.log.Debug("meet a member again", "error", err)
				}
			})
		}
		probes.Wait()
	}
}

// someLost returns up to maxProbed addresses; which, is left to chance.
func (n *Node) someLost() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var some []string
	for _, address := range n.lost {
		if some = append(some, address); len(some) == maxProbed {
			break
		}
	}
	return some
}

// refresh reports whether the members changed.
func (n *Node) refresh() bool {
	var peers []Peer
	for _, m := range n.members.Members() {
		peers = append(peers, peerOf(m))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if slices.EqualFunc(n.peers, peers, func(a, b Peer) bool {
		return a.Name == b.Name && a.Address == b.Address && maps.Equal(a.Tags, b.Tags)
	}) {
		return false
	}
	n.peers = peers
	for w := range n.watches {
		signal(w)
	}
	return true
}

func (n *Node) tellMembers(now time.Duration) {
	var members []Member
	for _, p := range n.reached() {
		members = append(members, Member{Name: plumtree.Peer(p.Name), Actor: p.Actor})
	}
	n.core.Members(members, now)
}

// Members returns the peers believed to be alive, this one among them, sorted
// by name.
func (n *Node) Members() []Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.peers)
}

// reached are the peers that records travel to and from: those believed to be
// alive, and those of the others whose link answers.
func (n *Node) reached() []Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	peers := slices.Clone(n.peers)
	for _, p := range n.doubted {
		if !slices.ContainsFunc(peers, func(q Peer) bool { return q.Name == p.Name }) {
			peers = append(peers, p)
		}
	}
	return peers
}

func (n *Node) peer(name string) (Peer, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.peers, func(p Peer) bool { return p.Name == name })
	if i < 0 {
		return Peer{}, false
	}
	return n.peers[i], true
}

// Watch returns a channel that has an element after the members changed, until
// stop is called.
func (n *Node) Watch() (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watches[c] = struct{}{}
	return c, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.watches, c)
	}
}

// neighbours are those to keep links with.
func (n *Node) neighbours() []string {
	peers := n.reached()
	names := make([]plumtree.Peer, len(peers))
	for i, p := range peers {
		names[i] = plumtree.Peer(p.Name)
	}
	var near []string
	for _, p := range plumtree.Neighbours(plumtree.Peer(n.o.Name), names, plumtree.DefaultRings) {
		near = append(near, string(p))
	}
	return near
}

func (n *Node) isNeighbour(peer string) bool { return slices.Contains(n.neighbours(), peer) }

// seed looks for members while no other is known.
func (n *Node) seed(ctx context.Context) error {
	if n.o.Seeds == nil {
		return nil
	}
	tick := time.NewTicker(seedEvery)
	defer tick.Stop()
	for {
		if len(n.Members()) < 2 {
			if seeds := n.o.Seeds(); len(seeds) > 0 {
				if _, err := n.Join(seeds); err != nil {
					n.log.Debug("look for members", "error", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Join introduces this peer to members at these addresses, host:port.
func (n *Node) Join(addresses []string) (int, error) { return n.members.Join(addresses) }

// Leave tells the others that this peer goes on purpose.
func (n *Node) Leave(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- n.members.Leave() }() // serf bounds it itself
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("leave the cell: %w", ctx.Err())
	}
}

// Forget takes out a member that failed.
func (n *Node) Forget(name string) error { return n.members.Forget(name) }

// RotateKey changes the key of the membership's ring on all peers.
func (n *Node) RotateKey(key []byte) error { return n.members.RotateKey(key) }
