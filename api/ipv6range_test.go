package api

import (
	"encoding/pem"
	"net/netip"
	"testing"
)

func TestIPv6RangesOfACell(t *testing.T) {
	one, err := CellIPv6(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("one")}))
	if err != nil {
		t.Fatal(err)
	}
	other, err := CellIPv6(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("other")}))
	if err != nil || one == other {
		t.Errorf("two cells have %s and %s, %v", one, other, err)
	}
	if err := CheckCellIPv6(one); err != nil || one.Addr().As16()[0] != 0xfd {
		t.Errorf("the range %s is not of unique local addresses: %v", one, err)
	}
	services, all := ServiceCIDR6(one), PodRange6(one)
	if services.Bits() != 112 || all.Overlaps(services) || !one.Overlaps(services) {
		t.Errorf("services in %s, pods in %s of %s", services, all, one)
	}
	seen := map[netip.Prefix]bool{}
	for _, n := range []int{0, 1, 255, 256, 1<<14 - 1} {
		p := PodCIDR6(one, podRangeOf(n))
		if seen[p] || p.Bits() != 64 || !all.Contains(p.Addr()) {
			t.Errorf("host %d has %s of %s", n, p, all)
		}
		seen[p] = true
	}
	if _, err := CellIPv6([]byte("nothing")); err == nil {
		t.Error("a range came from no certificate")
	}
	for _, bad := range []string{"10.0.0.0/48", "fd00::/64", "fd00::1/48", "fe80::/48", "ff02::/48", "2001:db8::/32"} {
		if p, err := netip.ParsePrefix(bad); err == nil && CheckCellIPv6(p) == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}
