package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/uuid"

	"shoal/api/claims"
	"shoal/store"
)

// records are claims' view of the store.
type records struct{ db *store.DB }

var _ claims.Records = records{}

// CellRecords is the store as what keeps the cell's own records (claims, keys)
// sees it.
func CellRecords(db *store.DB) claims.Records { return records{db} }

// CreateRecord implements claims.Records.
func (r records) CreateRecord(ctx context.Context, key string, value []byte) (bool, error) {
	_, err := r.db.Update(ctx, store.Update{Key: key, Expect: store.Absent, Value: value, UID: uuid.NewString()})
	var conflict *store.ConflictError
	if errors.As(err, &conflict) {
		return false, nil
	}
	return err == nil, err
}

// DeleteRecord implements claims.Records.
func (r records) DeleteRecord(ctx context.Context, key string) error {
	_, err := r.db.Update(ctx, store.Update{Key: key, Expect: store.Any, Delete: true})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// ReplaceRecord implements claims.Records.
func (r records) ReplaceRecord(ctx context.Context, key string, old, value []byte) (bool, error) {
	entry, _, err := r.db.Get(key, store.Latest)
	if errors.Is(err, store.ErrNotFound) || err == nil && !bytes.Equal(entry.Value, old) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = r.db.Update(ctx, store.Update{Key: key, Expect: entry.Version, Value: value, UID: entry.UID})
	var conflict *store.ConflictError
	if errors.As(err, &conflict) {
		return false, nil
	}
	return err == nil, err
}

// FollowRecords implements claims.Records.
func (r records) FollowRecords(ctx context.Context, prefix string, whole func(map[string][]byte), change func(key string, value []byte)) error {
	for {
		err := r.follow(ctx, prefix, whole, change)
		if !errors.Is(err, store.ErrExpired) {
			return err
		}
		// Too slow for the watch window: begin anew.
	}
}

// follow is FollowRecords for as long as the watch lasts.
func (r records) follow(ctx context.Context, prefix string, whole func(map[string][]byte), change func(key string, value []byte)) error {
	from := r.db.Version()
	watcher, err := r.db.Watch(prefix, from)
	if err != nil {
		return err
	}
	defer watcher.Stop()
	all, err := r.listAt(prefix, from)
	if err != nil {
		return err
	}
	whole(all)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Ready():
		}
		for {
			events, _, err := watcher.Take()
			if errors.Is(err, store.ErrClosed) {
				return nil
			}
			if err != nil {
				return err
			}
			for _, e := range events {
				if e.Deleted {
					change(e.Key, nil)
				} else {
					change(e.Key, append([]byte{}, e.Value...))
				}
			}
			if len(events) == 0 {
				break
			}
		}
	}
}

// ListRecords implements claims.Records.
func (r records) ListRecords(_ context.Context, prefix string) (map[string][]byte, error) {
	return r.listAt(prefix, store.Latest)
}

func (r records) listAt(prefix string, at store.Version) (map[string][]byte, error) {
	entries, _, err := r.db.List(store.Range{Prefix: prefix}, at)
	if err != nil {
		return nil, err
	}
	found := map[string][]byte{}
	for entry, err := range entries {
		if err != nil {
			return nil, err
		}
		found[entry.Key] = bytes.Clone(entry.Value)
	}
	return found, nil
}

// PodRange has the pod addresses of a cell: one /24 per host out of a /10
// (design section 7).
var PodRange = netip.MustParsePrefix("10.64.0.0/10")

const (
	podCIDRClaims = "/shoal/claims/podcidrs/"
	podCIDRBits   = 24
)

// ClaimPodCIDR returns the range of pod addresses of the host named nodeName:
// the one it has claimed before, or a new one. Two hosts that claim at the same
// moment begin in different places of the cell's range, by their names.
func ClaimPodCIDR(ctx context.Context, db *store.DB, nodeName string) (netip.Prefix, error) {
	ledger, err := openPodRanges(ctx, db, nodeName)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("claim a pod range: %w", err)
	}
	if mine := ledger.Mine(); len(mine) > 0 {
		return podRangeOf(mine[0]), nil
	}
	n, err := ledger.TakeNext()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("claim a pod range of %s: %w", PodRange, err)
	}
	return podRangeOf(n), nil
}

// ReleasePodCIDR gives back the range of a host that is gone for good.
func ReleasePodCIDR(ctx context.Context, db *store.DB, nodeName string) error {
	ledger, err := claims.Open(ctx, records{db}, podCIDRClaims, nodeName, 1<<(podCIDRBits-PodRange.Bits()), 0)
	if err != nil {
		return fmt.Errorf("give back the pod range of %s: %w", nodeName, err)
	}
	for _, n := range ledger.Mine() {
		if err := ledger.Free(n); err != nil {
			return fmt.Errorf("give back the pod range of %s: %w", nodeName, err)
		}
	}
	return nil
}
