package gossip

import (
	"context"
	"time"

	"shoal/gossip/plumtree"
	"shoal/store/vector"
)

// Status is what a person wants to know of gossip on this peer.
type Status struct {
	Actor vector.Actor
	// Joining: this peer has nothing of the cell yet.
	Joining bool
	Peers   []PeerStatus
	// Alarm is that of divergence, nil if none is on.
	Alarm    *Alarm
	Counters Counters
	Tree     plumtree.Stats
}

// PeerStatus is one member, or a peer with a link that is none.
type PeerStatus struct {
	Peer
	// Alive: membership believes so. Connected: there is a link; Tree: it
	// carries broadcasts.
	Alive, Connected, Tree bool
	// Behind is how many deltas of the peer's this one lacked at the last
	// exchange, Ahead how many the peer lacked. Exchanged is when; the zero
	// time if there was none over the present link.
	Behind, Ahead uint64
	Exchanged     time.Time
	// RTT is the last exchange's, or by network coordinates; 0 if not known.
	RTT time.Duration
	// Bytes over the present link.
	SentBytes, ReceivedBytes uint64
	LostFrames               uint64
	PendingBytes             int
}

// Status gathers the present state.
func (n *Node) Status(ctx context.Context) (Status, error) {
	var s Status
	progress := make(map[string]Progress)
	if !n.ask(ctx, func(time.Duration) {
		s = Status{
			Actor: n.o.Store.Actor(), Joining: n.core.Joining(), Counters: n.core.Counters(), Tree: n.core.Tree(),
		}
		if a := n.core.Alarm(); a != nil {
			alarm := *a
			s.Alarm = &alarm
		}
		for _, p := range n.core.Progress() {
			progress[string(p.Peer)] = p
		}
	}) {
		return Status{}, context.Cause(ctx)
	}
	seen := make(map[string]bool)
	for _, p := range n.Members() {
		seen[p.Name] = true
		if p.Name != n.o.Name {
			s.Peers = append(s.Peers, n.peerStatus(p, true, progress))
		}
	}
	for name := range progress {
		if !seen[name] {
			s.Peers = append(s.Peers, n.peerStatus(Peer{Name: name}, false, progress))
		}
	}
	return s, nil
}

func (n *Node) peerStatus(p Peer, alive bool, progress map[string]Progress) PeerStatus {
	s := PeerStatus{Peer: p, Alive: alive}
	s.RTT, _ = n.members.RTT(p.Name)
	if at, ok := progress[p.Name]; ok {
		s.Tree, s.Behind, s.Ahead, s.PendingBytes = at.Tree, at.Behind, at.Ahead, at.PendingBytes
		if at.Exchanged > 0 {
			s.Exchanged = n.began.Add(at.Exchanged)
		}
		if at.RTT > 0 {
			s.RTT = at.RTT
		}
	}
	if l := n.linkTo(p.Name); l != nil {
		stats := l.Stats()
		s.Connected = true
		s.SentBytes, s.ReceivedBytes, s.LostFrames = stats.SentBytes, stats.ReceivedBytes, stats.LostFrames
	}
	return s
}
