//go:build linux

package daemon

import (
	"context"

	"shoal/api/hosts"
	"shoal/api/issuer"
	apistorage "shoal/api/storage"
	"shoal/store"
)

// answerPeers registers what other peers may ask this one.
func (p *peer) answerPeers() {
	p.node.Handle(issuer.VectorMethod, issuer.Vector(p.db))
	p.node.Handle(issuer.DigestMethod, issuer.Digest(p.db))
}

// cell is how this peer's API asks others.
func (p *peer) cell() apistorage.Cell {
	return apistorage.Cell{Tag: p.identity.Tag, Peers: issuer.NewAsker(cellAsker{p.node})}
}

// cellAsker finds peers by their numbers.
type cellAsker struct{ node *cellNode }

var _ issuer.Cell = cellAsker{}

// PeerOf implements issuer.Cell. Where two have one number, as after a split
// until one of them is started again, it cannot be told whose version it is:
// the answer is as if the issuer were gone.
func (a cellAsker) PeerOf(tag store.Tag) (name string, found bool) {
	for _, m := range a.node.Members() {
		if m.Tag == tag && found {
			return "", false
		}
		if m.Tag == tag {
			name, found = m.Name, true
		}
	}
	return name, found
}

// Request implements issuer.Cell.
func (a cellAsker) Request(ctx context.Context, peer, method string, payload []byte) ([]byte, error) {
	return a.node.Request(ctx, peer, method, payload)
}

// cellHosts is what gossip knows of hosts.
type cellHosts struct {
	node    *cellNode
	changed <-chan struct{}
}

var _ hosts.Members = cellHosts{}

// hostMembers is watched until the daemon ends.
func (p *peer) hostMembers() hosts.Members {
	changed, _ := p.node.Watch()
	return cellHosts{p.node, changed}
}

// Alive implements hosts.Members.
func (h cellHosts) Alive() map[string]bool {
	alive := map[string]bool{}
	for _, name := range h.node.Names() {
		alive[name] = true
	}
	return alive
}

// Left implements hosts.Members: a host that takes leave takes its Node along,
// and one whose daemon is merely stopped is not known to come back.
func (h cellHosts) Left(string) bool { return false }

// Changed implements hosts.Members.
func (h cellHosts) Changed() <-chan struct{} { return h.changed }
