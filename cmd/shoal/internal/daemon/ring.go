//go:build linux

package daemon

import (
	"bytes"
	"context"
	"errors"
	"os"

	"shoal/api/pki"
	"shoal/store"
)

// keepRing writes gossip's keyring to this host's file when another peer has
// rotated it, for the next start.
func (p *peer) keepRing(ctx context.Context) error {
	watch, err := p.db.Watch(gossipRingKey, p.db.Version())
	if err != nil {
		return err
	}
	defer watch.Stop()
	for {
		p.writeRing()
		select {
		case <-ctx.Done():
			return nil
		case <-watch.Ready():
		}
		if _, _, err := watch.Take(); errors.Is(err, store.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (p *peer) writeRing() {
	e, _, err := p.db.Get(gossipRingKey, store.Latest)
	if err != nil {
		return // not there yet
	}
	if have, err := os.ReadFile(p.files.GossipKeys); err == nil && bytes.Equal(have, e.Value) {
		return
	}
	if err := pki.WriteFile(p.files.GossipKeys, e.Value, 0o600); err != nil {
		p.log.Warn("keep gossip's new key", "error", err)
	}
}
