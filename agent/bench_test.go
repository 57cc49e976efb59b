package agent

import (
	"context"
	"fmt"
	"sort"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// BenchmarkPodThroughAPI is one pod after another through the real API
// server: create → Running seen by a watch, delete → gone.
func BenchmarkPodThroughAPI(b *testing.B) {
	h := newHost(b, "bench")
	var starts, stops []time.Duration
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprintf("bench-%d", i)
		starts = append(starts, timed(b, 1, func() { h.create(name, sleeper) }, up))
		stops = append(stops, timed(b, 1, func() { remove(b, name) }, gone))
	}
	report(b, starts, "running")
	report(b, stops, "gone")
}

// Benchmark100ThroughAPI is 100 pods at once.
func Benchmark100ThroughAPI(b *testing.B) {
	h := newHost(b, "bench100")
	var starts, stops []time.Duration
	for n := 0; b.Loop(); n++ {
		starts = append(starts, timed(b, 100, func() {
			for i := range 100 {
				h.create(fmt.Sprintf("many-%d-%d", n, i), sleeper)
			}
		}, up))
		stops = append(stops, timed(b, 100, func() {
			for i := range 100 {
				remove(b, fmt.Sprintf("many-%d-%d", n, i))
			}
		}, gone))
	}
	report(b, starts, "running100")
	report(b, stops, "gone100")
}

func up(e watch.Event) bool {
	pod, ok := e.Object.(*v1.Pod)
	return ok && pod.Status.Phase == v1.PodRunning && pod.DeletionTimestamp == nil
}

func gone(e watch.Event) bool { return e.Type == watch.Deleted }

func remove(b *testing.B, name string) {
	if err := peer.Client.CoreV1().Pods("default").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
}

// timed is how long it takes from do until want different pods matched.
func timed(b *testing.B, want int, do func(), match func(watch.Event) bool) time.Duration {
	b.Helper()
	list, err := peer.Client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{Limit: 1})
	if err != nil {
		b.Fatal(err)
	}
	w, err := peer.Client.CoreV1().Pods("default").Watch(context.Background(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	began := time.Now()
	do()
	seen := map[string]bool{}
	deadline := time.After(limit)
	for {
		select {
		case e := <-w.ResultChan():
			if match(e) {
				seen[e.Object.(*v1.Pod).Name] = true
			}
			if len(seen) == want {
				return time.Since(began)
			}
		case <-deadline:
			b.Fatalf("%d of %d pods after %s", len(seen), want, limit)
		}
	}
}

func report(b *testing.B, all []time.Duration, what string) {
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(all[len(all)/2]), what+"-p50-ms")
	b.ReportMetric(ms(all[len(all)*95/100]), what+"-p95-ms")
}
