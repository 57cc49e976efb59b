//go:build linux

package lab

import (
	"context"
	"fmt"
)

// Rejoin starts a peer that the cell no longer has, killed or without a daemon,
// with a new token of peer 1: it comes back as a new member.
func (l *Lab) Rejoin(ctx context.Context, n int) error {
	err := l.change(ctx, func() error {
		p, err := l.state.peer(n)
		if err != nil {
			return err
		}
		if p == l.state.Peers[0] || l.state.Separate {
			return fmt.Errorf("rejoin %s: tokens are peer 1's; rejoin another peer of one cell", p.Name)
		}
		p.Started = false // what never was a member joins
		return nil
	})
	if err != nil {
		return err
	}
	return l.Start(ctx, n)
}
