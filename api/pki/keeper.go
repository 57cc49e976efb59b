package pki

import (
	"context"
	"log/slog"
	"time"
)

const (
	// keeperLook is the longest a Keeper goes without looking: a clock that was
	// set, or a file that was replaced by hand, is noticed by then.
	keeperLook = time.Hour
	// keeperRetry is the wait after a renewal that failed, as on a full disk; a
	// third of a certificate's life is left for it.
	keeperRetry = time.Minute
)

// Clock is where a Keeper reads time.
type Clock interface {
	Now() time.Time
	// After delivers once, d from now, like time.After.
	After(d time.Duration) <-chan time.Time
}

// Keeper renews a host's certificates at two thirds of their life, in place:
// servers and clients that read the files again (Pair, upstream's dynamic
// certificates) change over without a restart.
type Keeper struct {
	Files Files
	Names Names
	Clock Clock
	// Life of the certificates it makes; a year when zero.
	Life time.Duration
	// Renewed, when set, is told the names of certificates just renewed.
	Renewed func(names []string)
	Logger  *slog.Logger
}

// Run renews until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		wait := k.look()
		select {
		case <-ctx.Done():
			return nil
		case <-k.Clock.After(wait):
		}
	}
}

// look renews what needs it and says when to look again.
func (k *Keeper) look() time.Duration {
	life := k.Life
	if life == 0 {
		life = leafLife
	}
	now := k.Clock.Now()
	renewed, err := ensureLeaves(k.Files, k.Names, now, life)
	if len(renewed) > 0 {
		k.Logger.Info("certificates renewed", "certificates", renewed)
		if k.Renewed != nil {
			k.Renewed(renewed)
		}
	}
	if err != nil {
		k.Logger.Error("certificates could not be renewed, will retry", "error", err)
		return keeperRetry
	}
	wait := keeperLook
	for _, l := range leavesOf(k.Files, k.Names) {
		if cert, err := readCert(l.cert); err == nil {
			wait = min(wait, max(renewAt(cert).Sub(now), 0))
		}
	}
	return wait
}
