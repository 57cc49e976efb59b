package claims

import (
	"context"
	"net/netip"
)

// OwnedAddresses is the claims on addresses of no fixed range, each made for an
// owner that is known from the start. It has no limit of its own: whoever claims
// does so from ranges that somebody wrote down.
type OwnedAddresses struct{ *book[netip.Addr] }

// OpenAddresses reads the claims below prefix; holder names this peer.
func OpenAddresses(ctx context.Context, records Records, prefix, holder string) (*OwnedAddresses, error) {
	a := &OwnedAddresses{&book[netip.Addr]{
		records: records, prefix: prefix, holder: holder, taken: map[netip.Addr]Claim{},
		write: netip.Addr.String,
		read: func(s string) (netip.Addr, bool) {
			addr, err := netip.ParseAddr(s)
			return addr, err == nil
		},
	}}
	return a, a.open(ctx)
}

// Run follows what other peers claim and release, until ctx ends. changed is
// called after each change, and with the zero address after there may have been
// many; it must not block.
func (a *OwnedAddresses) Run(ctx context.Context, changed func(netip.Addr)) error {
	return a.follow(ctx, changed, func() { changed(netip.Addr{}) })
}

// Take claims addr for owner; taken is false when somebody holds it, the owner
// included.
func (a *OwnedAddresses) Take(addr netip.Addr, owner string) (taken bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.takeLocked(addr, owner)
}

// HandOver makes the claim was on addr one for owner, in one write: nobody else can
// claim addr in between. It is no error if the claim has changed.
func (a *OwnedAddresses) HandOver(addr netip.Addr, was Claim, owner string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.replaceLocked(addr, was, Claim{Holder: a.holder, Owner: owner})
}

// All returns every claim.
func (a *OwnedAddresses) All() map[netip.Addr]Claim { return a.snapshot() }
