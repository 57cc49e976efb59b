package api

import (
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
)

// ipv6CellBits is the length of a cell's range of IPv6: a site's, of which each
// host takes a subnet of /64 (RFC 4193 section 3, RFC 6177).
const ipv6CellBits = 48

// servicesSubnet is the last subnet of the cell's range; those of hosts have the
// numbers of their IPv4 ranges, of which there are less.
const servicesSubnet = 0xffff

// serviceBits6 is the length of the range of IPv6 cluster IPs: as many addresses
// as the IPv4 range has.
const serviceBits6 = 112

// CellIPv6 is the range of IPv6 addresses of the cell whose certificate authority
// this is, as PEM: unique local addresses (RFC 4193) whose global ID comes from
// the certificate, so that every host finds the same, and another cell another.
func CellIPv6(ca []byte) (netip.Prefix, error) {
	block, _ := pem.Decode(ca)
	if block == nil {
		return netip.Prefix{}, errors.New("choose the cell's IPv6 range: its certificate authority is no PEM file")
	}
	sum := sha256.Sum256(append([]byte("shoal IPv6 range\n"), block.Bytes...))
	b := [16]byte{0xfd}
	copy(b[1:], sum[:5])
	return netip.PrefixFrom(netip.AddrFrom16(b), ipv6CellBits), nil
}

// CheckCellIPv6 accepts a range that an administrator gives in its place.
func CheckCellIPv6(p netip.Prefix) error {
	if !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() != ipv6CellBits || p != p.Masked() || p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast() {
		return fmt.Errorf("%s is no range of pod addresses: give an IPv6 /%d, as in fd12:3456:789a::/48", p, ipv6CellBits)
	}
	return nil
}

// PodCIDR6 is the part of a cell's range that a host has whose IPv4 one ClaimPodCIDR
// returned. It has the same number, so one claim is for both.
func PodCIDR6(cell, podCIDR netip.Prefix) netip.Prefix {
	return subnet6(cell, uint16(podRangeNumber(podCIDR)), 64)
}

// PodRange6 holds the ranges of all hosts: the numbers of subnets have 16 bits, and
// those of hosts as many as IPv4 ranges need.
func PodRange6(cell netip.Prefix) netip.Prefix {
	return subnet6(cell, 0, 64-(podCIDRBits-PodRange.Bits()))
}

// ServiceCIDR6 is where IPv6 cluster IPs come from.
func ServiceCIDR6(cell netip.Prefix) netip.Prefix {
	return subnet6(cell, servicesSubnet, serviceBits6)
}

func subnet6(cell netip.Prefix, n uint16, bits int) netip.Prefix {
	b := cell.Addr().As16()
	b[6], b[7] = byte(n>>8), byte(n)
	return netip.PrefixFrom(netip.AddrFrom16(b), bits)
}
