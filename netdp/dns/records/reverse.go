package records

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

const (
	reverse4, reverse6 = ".in-addr.arpa.", ".ip6.arpa."
	nibbles            = 32 // of an IPv6 address
)

// reverseAddr is the address whose name is asked for. Names of parts of an
// address are not it.
func reverseAddr(name string) (netip.Addr, bool) {
	if digits, ok := strings.CutSuffix(name, reverse4); ok {
		labels := strings.Split(digits, ".")
		slices.Reverse(labels)
		addr, err := netip.ParseAddr(strings.Join(labels, "."))
		return addr, err == nil && addr.Is4()
	}
	digits, ok := strings.CutSuffix(name, reverse6)
	if !ok || len(digits) != 2*nibbles-1 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range nibbles {
		digit := digits[len(digits)-1-2*i]
		n, err := strconv.ParseUint(string(digit), 16, 4)
		if err != nil || i > 0 && digits[len(digits)-2*i] != '.' {
			return netip.Addr{}, false
		}
		b[i/2] = b[i/2]<<4 | byte(n)
	}
	return netip.AddrFrom16(b), true
}

// pointers answers for the address of a service or an endpoint. An address that
// is neither is somebody else's to name, unless it is in the cell's own ranges.
func (x *Index) pointers(name string, addr netip.Addr, qtype uint16) Answer {
	x.mu.RLock()
	defer x.mu.RUnlock()
	found := x.names[addr]
	ours := len(found) > 0 || slices.ContainsFunc(x.own, func(p netip.Prefix) bool { return p.Contains(addr) })
	if !ours {
		return Answer{}
	}
	a := Answer{Ours: true, Exists: len(found) > 0, Authority: soa(name, x.domain)}
	if qtype != dns.TypePTR {
		return a
	}
	for _, p := range found {
		a.Records = append(a.Records, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: p.name})
	}
	return a
}
