package claims

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/allocator"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
)

// Ports is a ledger behind the interface upstream's node port allocator is
// built on. Offsets are ports counted from the range's first.
type Ports struct{ *Ledger }

var _ allocator.Interface = Ports{}

// Allocate claims offset; false when it is taken.
func (p Ports) Allocate(offset int) (bool, error) { return p.Take(offset) }

// AllocateNext claims a free offset; false when there is none.
func (p Ports) AllocateNext() (int, bool, error) {
	n, err := p.TakeNext()
	if errors.Is(err, ErrFull) {
		return 0, false, nil
	}
	return n, err == nil, err
}

// Release frees offset.
func (p Ports) Release(offset int) error { return p.Ledger.Free(offset) }

// ForEach calls f with every taken offset.
func (p Ports) ForEach(f func(int)) { p.Each(f) }

// Free returns how many offsets are free.
func (p Ports) Free() int { return p.Left() }

// Destroy has nothing to stop.
func (p Ports) Destroy() {}

// Addresses is a ledger behind upstream's cluster IP allocator interface. It
// serves ranges of at most a /12 of IPv4 and a /108 of IPv6; number n is the
// range's address n+1.
type Addresses struct {
	ledger *Ledger
	cidr   netip.Prefix
	dryRun bool
}

var _ ipallocator.Interface = (*Addresses)(nil)

// maxAddressBits bounds the in-memory set of one range to a million addresses.
const maxAddressBits = 20

// RangeSize returns how many numbers an address range holds: all addresses but
// the network's and the broadcast's.
func RangeSize(cidr netip.Prefix) (int, error) {
	all := cidr.Addr().BitLen()
	bits := all - cidr.Bits()
	if !cidr.IsValid() || bits < 3 || bits > maxAddressBits {
		return 0, fmt.Errorf("service range %s: want a range between /%d and /%d", cidr, all-maxAddressBits, all-3)
	}
	return 1<<bits - 2, nil
}

// ReservedAddresses is how many addresses at the bottom of a range are left
// for people to pick (KEP-3070: a sixteenth, at least 16, at most 256).
func ReservedAddresses(size int) int { return reserved(size, 16, 16, 256) }

// ReservedPorts is the same for node ports (KEP-3668: a thirty-second, at
// least 16, at most 128).
func ReservedPorts(size int) int { return reserved(size, 32, 16, 128) }

func reserved(size, part, least, most int) int {
	if size < least*2 {
		return 0
	}
	return min(max(size/part, least), most)
}

// NewAddresses serves cidr from ledger, which must have RangeSize(cidr) numbers.
func NewAddresses(ledger *Ledger, cidr netip.Prefix) *Addresses {
	return &Addresses{ledger: ledger, cidr: cidr.Masked()}
}

// Number returns the number of addr, false when the range does not hold it.
func (a *Addresses) Number(addr netip.Addr) (int, bool) {
	addr = addr.Unmap()
	if !a.cidr.Contains(addr) {
		return 0, false
	}
	n := int(lastWord(addr)-lastWord(a.cidr.Addr())) - 1
	return n, n >= 0 && n < a.ledger.size
}

// Address returns the address with number n.
func (a *Addresses) Address(n int) net.IP { return a.address(n) }

func (a *Addresses) address(n int) net.IP {
	b := a.cidr.Addr().AsSlice()
	last := b[len(b)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+uint32(n)+1)
	return b
}

// lastWord has all the bits that differ within a range: maxAddressBits are less.
func lastWord(addr netip.Addr) uint32 {
	b := addr.As16()
	return binary.BigEndian.Uint32(b[12:])
}

// Allocate claims ip.
func (a *Addresses) Allocate(ip net.IP) error {
	addr, _ := netip.AddrFromSlice(ip)
	n, ok := a.Number(addr)
	if !ok {
		return &ipallocator.ErrNotInRange{IP: ip, ValidRange: a.cidr.String()}
	}
	if a.dryRun {
		if a.ledger.Has(n) {
			return ipallocator.ErrAllocated
		}
		return nil
	}
	taken, err := a.ledger.Take(n)
	if err == nil && !taken {
		return ipallocator.ErrAllocated
	}
	return err
}

// AllocateNext claims a free address.
func (a *Addresses) AllocateNext() (net.IP, error) {
	if a.dryRun {
		return a.address(a.ledger.reserved), nil
	}
	n, err := a.ledger.TakeNext()
	if errors.Is(err, ErrFull) {
		return nil, ipallocator.ErrFull
	}
	if err != nil {
		return nil, err
	}
	return a.address(n), nil
}

// Release frees ip; an address outside the range is no error.
func (a *Addresses) Release(ip net.IP) error {
	addr, _ := netip.AddrFromSlice(ip)
	n, ok := a.Number(addr)
	if !ok || a.dryRun {
		return nil
	}
	return a.ledger.Free(n)
}

// ForEach calls f with every taken address.
func (a *Addresses) ForEach(f func(net.IP)) {
	a.ledger.Each(func(n int) { f(a.address(n)) })
}

// CIDR returns the range.
func (a *Addresses) CIDR() net.IPNet {
	return net.IPNet{IP: a.cidr.Addr().AsSlice(), Mask: net.CIDRMask(a.cidr.Bits(), a.cidr.Addr().BitLen())}
}

// IPFamily is that of the range.
func (a *Addresses) IPFamily() api.IPFamily {
	if a.cidr.Addr().Is6() {
		return api.IPv6Protocol
	}
	return api.IPv4Protocol
}

// Has reports whether ip is taken.
func (a *Addresses) Has(ip net.IP) bool {
	addr, _ := netip.AddrFromSlice(ip)
	n, ok := a.Number(addr)
	return ok && a.ledger.Has(n)
}

// Destroy has nothing to stop.
func (a *Addresses) Destroy() {}

// EnableMetrics does nothing: the counts are in the store's own metrics.
func (a *Addresses) EnableMetrics() {}

// DryRun returns an allocator that answers as this one and claims nothing.
func (a *Addresses) DryRun() ipallocator.Interface {
	return &Addresses{ledger: a.ledger, cidr: a.cidr, dryRun: true}
}
