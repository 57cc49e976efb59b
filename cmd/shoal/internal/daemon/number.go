//go:build linux

package daemon

import (
	"context"
	"fmt"

	"shoal/api"
	"shoal/api/joining"
	"shoal/api/pki"
	"shoal/store"
)

// keepNumber takes another number when this host's was given to another host
// too, as two sides of a split may do: of two claims the earlier stays. Only
// here, before anything is served, can it change.
func (p *peer) keepNumber(ctx context.Context) error {
	tags := joining.Tags{Records: api.CellRecords(p.db)}
	holder, err := tags.Holder(ctx, p.identity.Tag)
	if err != nil || holder == "" || holder == p.identity.Name {
		return err
	}
	files := pki.FilesIn(p.pkiDir())
	certificate, err := pki.NewPair(files.Node, files.NodeKey).Certificate()
	if err != nil {
		return err
	}
	n, err := tags.Claim(ctx, p.identity.Name, certificate.Leaf.PublicKey)
	if err != nil {
		return fmt.Errorf("claim another number, as %s has this host's: %w", holder, err)
	}
	p.log.Warn("this host's number was given to another host too, on the other side of a split; it has a new one", "other", holder, "was", p.identity.Tag, "is", n)
	p.identity.Tag = store.Tag(n)
	if err := p.identity.save(p.config.DataDir); err != nil {
		return err
	}
	if err := p.db.Close(); err != nil {
		return err
	}
	return p.openStore(ctx)
}
