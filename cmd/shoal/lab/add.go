//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// Add makes one peer more, which joins the cell as any host does, and returns
// its number once its API answers. When it fails, nothing is left of the peer.
func (l *Lab) Add(ctx context.Context) (n int, err error) {
	err = l.change(ctx, func() error {
		if len(l.state.Peers) >= MaxNodes {
			return fmt.Errorf("add: a lab has at most %d peers", MaxNodes)
		}
		n = len(l.state.Peers) + 1
		p := &peer{Number: n, Name: fmt.Sprintf("lab-%d", n), Address: l.state.address(n), Killed: true}
		l.state.Peers = append(l.state.Peers, p)
		// Before anything of it exists: whoever takes the lab down knows of it.
		if err := l.save(); err != nil {
			return err
		}
		err := l.boot(ctx, p, nil, newSteps(nil))
		if err != nil {
			l.state.Peers = slices.DeleteFunc(l.state.Peers, func(q *peer) bool { return q == p })
			err = errors.Join(err, l.groups.remove(ctx, l.peerGroup(n)),
				l.unplug(ctx, func(name string) bool { return name == l.port(n) }), os.RemoveAll(l.hostDir(p)))
		}
		return err
	})
	return n, err
}
