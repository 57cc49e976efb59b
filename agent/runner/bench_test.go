package runner

import (
	"fmt"
	"sort"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// BenchmarkPodStart is one pod after another, created → Running → gone.
func BenchmarkPodStart(b *testing.B) {
	bed := newBed(b)
	var starts, stops []time.Duration
	for i := 0; b.Loop(); i++ {
		p := pod(fmt.Sprintf("p%d", i), sleeper)
		at := time.Now()
		bed.runner.Set(p)
		bed.phase(p, v1.PodRunning)
		starts = append(starts, time.Since(at))
		at = time.Now()
		bed.remove(p)
		stops = append(stops, time.Since(at))
	}
	report(b, starts, "start")
	report(b, stops, "stop")
}

// BenchmarkPods100 is 100 pods at once.
func BenchmarkPods100(b *testing.B) {
	bed := newBed(b)
	var starts, stops []time.Duration
	for n := 0; b.Loop(); n++ {
		var pods []*v1.Pod
		for i := range 100 {
			pods = append(pods, pod(fmt.Sprintf("p%d-%d", n, i), sleeper))
		}
		at := time.Now()
		for _, p := range pods {
			bed.runner.Set(p)
		}
		for _, p := range pods {
			bed.phase(p, v1.PodRunning)
		}
		starts = append(starts, time.Since(at))
		at = time.Now()
		bed.remove(pods...)
		stops = append(stops, time.Since(at))
	}
	report(b, starts, "start100")
	report(b, stops, "stop100")
}

func report(b *testing.B, all []time.Duration, what string) {
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(all[len(all)/2]), what+"-p50-ms")
	b.ReportMetric(ms(all[len(all)*95/100]), what+"-p95-ms")
}
