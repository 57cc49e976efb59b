//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal/api"
	"shoal/netdp/wireguard"
)

// wireGuardKeyFile has this host's private key, below the data directory.
const wireGuardKeyFile = "wireguard.key"

var (
	errNotEncrypting = errors.New("--encrypt: this cell does not encrypt between hosts; start without the flag, or switch encryption on for all its hosts with `shoal encryption on` on one of them")
	errEncrypting    = errors.New("--no-encrypt: this cell encrypts between hosts; start without the flag, or switch encryption off for all its hosts with `shoal encryption off` on one of them")
)

// chooseEncryption has the cell's choice: a host that is alone in its cell makes
// it with its flag, any other follows.
func (p *peer) chooseEncryption(ctx context.Context) error {
	records := api.CellRecords(p.db)
	flag := p.config.Encrypt
	on, err := api.Encrypts(ctx, records)
	if err != nil {
		return err
	}
	if flag != nil && *flag != on {
		if len(membersIn(p.db)) > 1 {
			return refusedEncryption(on)
		}
		on = *flag
		if _, err := api.SetEncryption(ctx, records, on); err != nil {
			return err
		}
	}
	if on {
		p.wireGuardKey, err = p.loadWireGuardKey()
	}
	return err
}

func refusedEncryption(on bool) error {
	if on {
		return errEncrypting
	}
	return errNotEncrypting
}

func (p *peer) loadWireGuardKey() (wireguard.PrivateKey, error) {
	return wireguard.LoadKey(filepath.Join(p.config.DataDir, wireGuardKeyFile))
}

// encryptRetry is how soon a choice is tried again that could not be followed, such
// as on a full disk.
const encryptRetry = 2 * time.Second

// followEncryption changes the datapath when the cell's choice does. wake has the
// ways to other hosts set anew.
func (p *peer) followEncryption(ctx context.Context, wake func()) error {
	var wanted atomic.Bool
	heard := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return api.FollowEncryption(ctx, api.CellRecords(p.db), func(on bool) {
			wanted.Store(on)
			select {
			case heard <- struct{}{}:
			default: // one is waiting, and will find this
			}
		})
	})
	group.Go(func() error {
		again := time.NewTimer(encryptRetry)
		again.Stop() // until something has failed
		defer again.Stop()
		said := "" // why it failed the last time
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-heard:
			case <-again.C:
			}
			if err := p.encrypt(wanted.Load(), wake); err != nil {
				if said != err.Error() {
					said = err.Error()
					p.log.Error("the cell's choice of encryption between hosts cannot be followed yet", "error", err)
				}
				again.Reset(encryptRetry)
			} else {
				said = ""
			}
		}
	})
	return group.Wait()
}

func (p *peer) encrypt(on bool, wake func()) error {
	if on == !p.datapath.Encryption().IsZero() {
		return nil
	}
	var key wireguard.PrivateKey
	var err error
	if on {
		key, err = p.loadWireGuardKey()
	}
	if err == nil {
		err = p.datapath.SetEncryption(key)
	}
	if err != nil {
		return err
	}
	p.log.Info("the cell chose whether to encrypt between hosts", "encrypts", on)
	wake()
	return nil
}

// cellEncryption implements control.Encryption.
type cellEncryption struct{ *peer }

func (c cellEncryption) Encrypts(ctx context.Context) (bool, error) {
	return api.Encrypts(ctx, api.CellRecords(c.db))
}

func (c cellEncryption) SetEncryption(ctx context.Context, on bool) (bool, error) {
	if on { // a host that cannot make its key says so now
		if _, err := c.loadWireGuardKey(); err != nil {
			return false, fmt.Errorf("on %s: %w", c.config.Name, err)
		}
	}
	return api.SetEncryption(ctx, api.CellRecords(c.db), on)
}
