package issuer

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"shoal/store"
	"shoal/store/vector"
)

// Cell is how other peers are reached; a gossip node is behind it.
type Cell interface {
	// PeerOf names the peer with a tag, if it is alive.
	PeerOf(tag store.Tag) (name string, ok bool)
	// Request asks a peer and waits for its answer.
	Request(ctx context.Context, peer, method string, payload []byte) ([]byte, error)
}

var errUnknown = errors.New("the issuer does not know it any more")

// Asker asks the issuers of versions.
type Asker struct {
	cell Cell

	mu sync.Mutex
	// held is the latest answer of each peer, guarded by mu. It answers for
	// every older version of that peer, so that a thousand clients that move
	// here from a dying peer do not ask it a thousand times. There are no more
	// entries than tags.
	held map[store.Tag]holding
}

// NewAsker returns an Asker that reaches peers through cell.
func NewAsker(cell Cell) *Asker {
	return &Asker{cell: cell, held: map[store.Tag]holding{}}
}

// Held returns a vector that covers all the peer tag had at version.
func (a *Asker) Held(ctx context.Context, tag store.Tag, version store.Version) (vector.Vector, error) {
	a.mu.Lock()
	known := a.held[tag]
	a.mu.Unlock()
	if known.version >= version {
		return known.vector, nil
	}
	answer, err := a.ask(ctx, tag, VectorMethod, appendVersion(nil, version))
	if err != nil {
		return nil, err
	}
	h, err := decodeHolding(answer)
	if err != nil {
		return nil, err
	}
	if h.version < version || h.version.Tag() != tag {
		return nil, fmt.Errorf("ask the issuer of version %s: it answered for %s", version, h.version)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held[tag].version < h.version {
		a.held[tag] = h
	}
	return h.vector, nil
}

// Digest returns the digest of the record that the peer tag wrote under key at
// exactly version.
func (a *Asker) Digest(ctx context.Context, tag store.Tag, key string, version store.Version) (store.Digest, error) {
	answer, err := a.ask(ctx, tag, DigestMethod, appendDigestRequest(nil, version, key))
	if err != nil {
		return 0, err
	}
	digest, known, err := decodeDigest(answer)
	if err == nil && !known {
		err = fmt.Errorf("ask about %s at version %s: %w", key, version, errUnknown)
	}
	return digest, err
}

func (a *Asker) ask(ctx context.Context, tag store.Tag, method string, payload []byte) ([]byte, error) {
	peer, ok := a.cell.PeerOf(tag)
	if !ok {
		return nil, fmt.Errorf("ask the issuer of a version: no peer with tag %d is reachable", tag)
	}
	answer, err := a.cell.Request(ctx, peer, method, payload)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", peer, err)
	}
	return answer, nil
}
