package netdp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// addressRestTime is how long an address stays unused after its pod is gone
// while others are free: longer than a closed TCP connection is remembered.
const addressRestTime = 60 * time.Second

// addresses hands out the addresses of one range. The caller keeps the pod
// records that it is rebuilt from, and guards it.
type addresses struct {
	first, count uint32
	used         map[uint32]struct{}
	freed        map[uint32]time.Time
	cursor       uint32 // offset after the one handed out last
}

func newAddresses(prefix netip.Prefix) *addresses {
	size := uint32(1) << (32 - prefix.Bits())
	return &addresses{
		// The first address names the range and the last is its broadcast.
		first: ipv4Number(prefix.Masked().Addr()) + 1,
		count: size - 2,
		used:  map[uint32]struct{}{},
		freed: map[uint32]time.Time{},
	}
}

func ipv4Number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func numberIPv4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// ipv6 is the address of a pod in the range p that has the same number as its
// IPv4 one in this range, so one count serves both.
func (a *addresses) ipv6(addr netip.Addr, p netip.Prefix) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	b := p.Masked().Addr().As16()
	n := ipv4Number(addr) - a.first + 1
	binary.BigEndian.PutUint32(b[12:], binary.BigEndian.Uint32(b[12:])|n)
	return netip.AddrFrom16(b)
}

// alloc goes round the range, so a freed address waits its turn; one that was
// freed a moment ago is taken only when there is no other.
func (a *addresses) alloc(now time.Time) (netip.Addr, error) {
	resting, found := uint32(0), false
	for i := range a.count {
		offset := (a.cursor + i) % a.count
		if _, used := a.used[offset]; used {
			continue
		}
		if at, ok := a.freed[offset]; ok && now.Sub(at) < addressRestTime {
			if !found || at.Before(a.freed[resting]) {
				resting, found = offset, true
			}
			continue
		}
		return a.hand(offset), nil
	}
	if found {
		return a.hand(resting), nil
	}
	return netip.Addr{}, fmt.Errorf("allocate pod address: all %d of this host are in use; delete pods or give the host a larger range", a.count)
}

func (a *addresses) hand(offset uint32) netip.Addr {
	delete(a.freed, offset)
	a.used[offset] = struct{}{}
	a.cursor = (offset + 1) % a.count
	return numberIPv4(a.first + offset)
}

// take marks an address as used. It reports whether it lies in the range and
// was free.
func (a *addresses) take(addr netip.Addr) bool {
	offset := ipv4Number(addr) - a.first
	if offset >= a.count {
		return false
	}
	if _, used := a.used[offset]; used {
		return false
	}
	a.used[offset] = struct{}{}
	return true
}

func (a *addresses) release(addr netip.Addr, now time.Time) {
	offset := ipv4Number(addr) - a.first
	if _, used := a.used[offset]; !used || offset >= a.count {
		return
	}
	delete(a.used, offset)
	a.freed[offset] = now
}

// startAfter goes on where an earlier daemon stopped.
func (a *addresses) startAfter(addr netip.Addr) {
	if offset := ipv4Number(addr) - a.first; offset < a.count {
		a.cursor = (offset + 1) % a.count
	}
}
