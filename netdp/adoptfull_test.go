package netdp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"shoal/bpf"
)

// Services for which the slots had no room, and entries that contradict each
// other, do not keep the next daemon from starting.
func TestAdoptsWhatDoesNotFit(t *testing.T) {
	l := newLab(t)
	l.opts.Limits = MapLimits{Services: 64, Frontends: 64, Backends: 64, Slots: 16, MaglevChunks: 64}
	d := l.open()
	var services []Service
	for i := range 20 {
		services = append(services, Service{
			Key: fmt.Sprintf("default/s%d:80/TCP", i), Proto: TCP,
			Frontends: []Frontend{{Addr: netip.AddrFrom4([4]byte{10, 0, 9, byte(1 + i)}), Port: 80}},
			Backends:  []Backend{{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 64, 7, byte(100 + i)}), 80)}},
		})
		err := d.SetService(services[i])
		if full := err != nil; full != (i >= 16) {
			t.Fatalf("service %d of 16 slots: %v", i, err)
		}
	}
	before := kernelServices(t, d)
	l.must(d.Close())

	d = l.open()
	if got := kernelServices(t, d); !slices.Equal(got, before) {
		t.Errorf("adopted\n%s\nof\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"))
	}
	for _, s := range services[:12] {
		l.must(d.SetService(s))
	}
	if err := d.SyncComplete(); err != nil {
		t.Fatal(err)
	}
	want := kernelServices(t, d)
	spoil := func(i int, extent uint64) {
		id := d.table.byKey[services[i].Key].id
		l.must(d.table.maps.putService(id, bpf.DatapathService{Extent: extent}))
	}
	taken := d.table.byKey[services[1].Key].published.Extent
	spoil(0, taken)              // another's
	spoil(2, 1<<32|2)            // where no run begins
	spoil(3, 400<<32|1)          // beyond the map
	spoil(4, uint64(^uint32(0))) // more than there are
	stray := face{key: frontendKey(Frontend{Addr: netip.MustParseAddr("10.0.9.99"), Port: 80}, TCP)}
	l.must(d.table.maps.putFrontend(stray, 1<<20)) // of a service beyond the map
	l.must(d.Close())

	d = l.openUntilEnd()
	for _, s := range services[:12] {
		l.must(d.SetService(s))
	}
	if got := kernelServices(t, d); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
