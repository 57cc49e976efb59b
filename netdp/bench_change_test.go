package netdp

import (
	"net/netip"
	"testing"
)

// BenchmarkEndpointChange adds and removes one of eleven endpoints of one of
// 10,000 services: from the new service to the kernel's maps.
func BenchmarkEndpointChange(b *testing.B) {
	benchmarkChange(b, Frontend{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80})
}

// BenchmarkEndpointChangeNodePort has the Maglev table on top.
func BenchmarkEndpointChangeNodePort(b *testing.B) { benchmarkChange(b, Frontend{Port: 30080}) }

func benchmarkChange(b *testing.B, frontend Frontend) {
	l := newLab(b)
	d := l.openUntilEnd()
	for n := range 9_999 {
		l.must(d.SetService(benchService(n, 10)))
	}
	large := benchService(9_999, 11)
	large.Frontends = []Frontend{frontend}
	small := large
	small.Backends = large.Backends[:10]
	l.must(d.SetService(large))
	for i := 0; b.Loop(); i++ {
		next := large
		if i%2 == 0 {
			next = small
		}
		if err := d.SetService(next); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad sets 10,000 services of 10 endpoints in empty maps.
func BenchmarkLoad(b *testing.B) {
	l := newLab(b)
	services := make([]Service, 10_000)
	for n := range services {
		services[n] = benchService(n, 10)
	}
	for b.Loop() {
		b.StopTimer()
		d := l.open()
		b.StartTimer()
		for _, s := range services {
			if err := d.SetService(s); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		b.ReportMetric(float64(mapMemory(b, d))/(1<<20), "map-MiB")
		l.must(d.Remove())
		b.StartTimer()
	}
}

// mapMemory is what the kernel says its maps take, in bytes.
func mapMemory(t testing.TB, d *Datapath) (total uint64) {
	t.Helper()
	for name, m := range d.maps {
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		if n, ok := info.Memlock(); ok {
			t.Logf("%s %d KiB", name, n>>10)
			total += n
		}
	}
	return total
}
