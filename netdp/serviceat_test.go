package netdp

import (
	"net/netip"
	"testing"
)

// Drivers that give out addresses themselves learn which are services', also of a
// daemon that has not heard of the services yet.
func TestServiceAt(t *testing.T) {
	l := newLab(t)
	l.opts.ServiceCIDR = netip.MustParsePrefix("10.0.0.0/16")
	d := l.open()
	l.must(d.SetService(Service{Key: "default/web", Proto: TCP, Frontends: []Frontend{
		{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Addr: netip.MustParseAddr("192.0.2.80"), Port: 80, Outside: true}, {Port: 30080},
	}}))
	check := func(want map[string]string) {
		t.Helper()
		for addr, whose := range want {
			if got := d.ServiceAt(netip.MustParseAddr(addr)); got != whose {
				t.Errorf("%s is of %q, want %q", addr, got, whose)
			}
		}
	}
	check(map[string]string{
		"10.0.0.10": "service default/web", "192.0.2.80": "service default/web", "10.0.0.11": "the services' range 10.0.0.0/16",
		"10.64.7.9": "", "0.0.0.0": "", "fd00::1": "",
	})
	l.must(d.Close())
	d = l.openUntilEnd()
	check(map[string]string{"10.0.0.10": "service", "192.0.2.80": "service"})
}
