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

// ListRecords implements claims.Records.
func (r records) ListRecords(_ context.Context, prefix string) (map[string][]byte, error) {
	entries, _, err := r.db.List(store.Range{Prefix: prefix}, store.Latest)
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

// Pod ranges of a cell: one /24 per host out of a /10 (design section 7).
var podRange = netip.MustParsePrefix("10.64.0.0/10")

const (
	podCIDRClaims = "/shoal/claims/podcidrs/"
	podCIDRBits   = 24
)

// ClaimPodCIDR returns the range of pod addresses of the host named nodeName:
// the one it has claimed before, or a new one.
func ClaimPodCIDR(ctx context.Context, db *store.DB, nodeName string) (netip.Prefix, error) {
	size := 1 << (podCIDRBits - podRange.Bits())
	ledger, err := claims.Open(ctx, records{db}, podCIDRClaims, nodeName, size, 0)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("claim a pod range: %w", err)
	}
	var n int
	if mine := ledger.Mine(); len(mine) > 0 {
		n = mine[0]
	} else if n, err = ledger.TakeNext(); err != nil {
		return netip.Prefix{}, fmt.Errorf("claim a pod range of %s: %w", podRange, err)
	}
	base := podRange.Addr().As4()
	base[1] |= byte(n >> 8)
	base[2] = byte(n)
	return netip.PrefixFrom(netip.AddrFrom4(base), podCIDRBits), nil
}

// ReleasePodCIDR gives back the range of a host that is gone for good.
func ReleasePodCIDR(ctx context.Context, db *store.DB, nodeName string) error {
	ledger, err := claims.Open(ctx, records{db}, podCIDRClaims, nodeName, 1<<(podCIDRBits-podRange.Bits()), 0)
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
