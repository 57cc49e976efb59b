package loadbalancer

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"strings"
)

// maxRange bounds the addresses of one range that are handed out by themselves:
// far more than there are services. Those above it can still be wished for.
const maxRange = 1 << 32

// Range is addresses of one family, both ends included.
type Range struct{ First, Last netip.Addr }

// ParseRange reads FIRST-LAST, ADDRESS/BITS or ADDRESS. Of an IPv4 prefix of at
// least four addresses the first and the last are left out, as they name the
// network and broadcast where the prefix is a link's; of an IPv6 one the first,
// which is the routers' anycast address (RFC 4291, 2.6.1).
func ParseRange(s string) (Range, error) {
	first, last, isRange := strings.Cut(s, "-")
	switch {
	case isRange:
		return parseEnds(s, first, last)
	case strings.Contains(s, "/"):
		return parsePrefix(s)
	}
	return parseEnds(s, s, s)
}

func parseEnds(s, first, last string) (Range, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(first))
	if err != nil {
		return Range{}, fmt.Errorf("read range %q: %w", s, err)
	}
	b, err := netip.ParseAddr(strings.TrimSpace(last))
	if err != nil {
		return Range{}, fmt.Errorf("read range %q: %w", s, err)
	}
	a, b = a.Unmap(), b.Unmap()
	if a.Is4() != b.Is4() {
		return Range{}, fmt.Errorf("read range %q: its ends are of two families; write one range for each", s)
	}
	if b.Less(a) {
		return Range{}, fmt.Errorf("read range %q: it ends before it begins; write the lower address first: %s-%s", s, b, a)
	}
	return Range{a, b}.usable(s)
}

func parsePrefix(s string) (Range, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(s))
	if err != nil {
		return Range{}, fmt.Errorf("read range %q: %w", s, err)
	}
	r := Range{p.Masked().Addr(), lastOf(p)}
	switch host := p.Addr().BitLen() - p.Bits(); {
	case p.Addr().Is4() && host >= 2:
		r = Range{r.First.Next(), r.Last.Prev()}
	case p.Addr().Is6() && host >= 2:
		r.First = r.First.Next()
	}
	return r.usable(s)
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// usable refuses what no machine may be called at.
func (r Range) usable(s string) (Range, error) {
	for _, a := range []netip.Addr{r.First, r.Last} {
		if a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
			return Range{}, fmt.Errorf("read range %q: %s cannot be the address of a service; take a range of the network that callers are in", s, a)
		}
	}
	return r, nil
}

// Contains reports whether a is of the range.
func (r Range) Contains(a netip.Addr) bool {
	return a.Is4() == r.First.Is4() && !a.Less(r.First) && !r.Last.Less(a)
}

// without is what of the range is not in p: none, one or two ranges.
func (r Range) without(p netip.Prefix) []Range {
	first, last := p.Masked().Addr(), lastOf(p)
	if first.Is4() != r.First.Is4() || r.Last.Less(first) || last.Less(r.First) {
		return []Range{r}
	}
	var out []Range
	if r.First.Less(first) {
		out = append(out, Range{r.First, first.Prev()})
	}
	if last.Less(r.Last) {
		out = append(out, Range{last.Next(), r.Last})
	}
	return out
}

// Size is how many addresses the range has, at most maxRange.
func (r Range) Size() uint64 {
	firstHigh, firstLow := words(r.First)
	lastHigh, lastLow := words(r.Last)
	low, borrow := bits.Sub64(lastLow, firstLow, 0)
	high, _ := bits.Sub64(lastHigh, firstHigh, borrow)
	if high > 0 || low >= maxRange {
		return maxRange
	}
	return low + 1
}

// At is the i-th address, which must be below Size.
func (r Range) At(i uint64) netip.Addr {
	high, low := words(r.First)
	low, carry := bits.Add64(low, i, 0)
	high += carry
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], high)
	binary.BigEndian.PutUint64(b[8:], low)
	return netip.AddrFrom16(b).Unmap()
}

func words(a netip.Addr) (high, low uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}
