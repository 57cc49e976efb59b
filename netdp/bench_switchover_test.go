package netdp

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// BenchmarkSwitchover replaces the datapath of a host four times under traffic of every kind, as
// a restart does, and as an upgrade does that changes the layout of every map. gap-ms
// is the longest time in which no new connection was answered on some path, quiet-ms the
// same while nothing is replaced; broken and failed count connections, lost datagrams.
func BenchmarkSwitchover(b *testing.B) {
	for _, bench := range []struct {
		name  string
		alter func(map[string]*ebpf.MapSpec)
	}{{"restart", nil}, {"upgrade", doubleLimits}} {
		b.Run(bench.name, func(b *testing.B) {
			var gap, quiet time.Duration
			broken, failed, lost := 0, 0, 0
			for b.Loop() {
				l := newLiveCell(b)
				measure := func(f func()) (longest time.Duration) {
					for _, r := range l.under(f) {
						broken, failed, lost = broken+r.Broken, failed+r.Failed, lost+r.Lost
						longest = max(longest, r.LongestGap)
					}
					return longest
				}
				began := time.Now()
				gap = max(gap, measure(func() {
					for range 2 {
						l.first.opts.alterMaps = bench.alter
						l.replace(nil)
						l.first.opts.alterMaps = nil
						l.replace(nil)
					}
				}))
				took := time.Since(began)
				quiet = max(quiet, measure(func() { time.Sleep(took / 2) }))
			}
			b.ReportMetric(float64(gap.Microseconds())/1000, "gap-ms")
			b.ReportMetric(float64(quiet.Microseconds())/1000, "quiet-ms")
			b.ReportMetric(float64(broken), "broken")
			b.ReportMetric(float64(failed), "failed")
			b.ReportMetric(float64(lost), "lost")
		})
	}
}
