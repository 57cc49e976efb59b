package placement

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// BenchmarkPlace is the bar of the design: pods per second on 5,000 nodes that
// hold 30 pods each, the search and the bookkeeping together.
func BenchmarkPlace(b *testing.B) {
	for _, nodes := range []int{1, 100, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			s := benchmarkFleet(nodes)
			pods := make([]*v1.Pod, 1000)
			for i := range pods {
				pods[i] = podArgument{Owner: fmt.Sprintf("new%d", i%10), Req: v1.ResourceList{"cpu": quantity("100m"), "memory": quantity("64Mi")}}.pod(fmt.Sprintf("new%d", i))
			}
			b.ResetTimer()
			for i := range b.N {
				pod := pods[i%len(pods)]
				s.RemovePod(pod.UID)
				result := s.Place(pod)
				if result.Node == "" {
					b.Fatal(result.Diagnosis)
				}
				s.SetPod(pod, result.Node)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

func benchmarkFleet(nodes int) *Snapshot {
	s := NewSnapshot()
	for i := range nodes {
		name := fmt.Sprintf("node-%d", i)
		s.SetNode(nodeArgument{
			Cap:    v1.ResourceList{"cpu": quantity("512"), "memory": quantity("2Ti"), "pods": quantity("2000")},
			Labels: map[string]string{"zone": zones[i%len(zones)]},
		}.node(name))
		for j := range 30 {
			pod := podArgument{Owner: fmt.Sprintf("o%d", j), Req: v1.ResourceList{"cpu": quantity("100m"), "memory": quantity("128Mi")}}.pod(fmt.Sprintf("%s-%d", name, j))
			s.SetPod(pod, name)
		}
	}
	return s
}

// BenchmarkDiagnose is what a pod costs that fits nowhere.
func BenchmarkDiagnose(b *testing.B) {
	s := benchmarkFleet(5000)
	pod := podArgument{Req: v1.ResourceList{"cpu": quantity("1024")}}.pod("big")
	b.ResetTimer()
	for range b.N {
		if s.Place(pod).Node != "" {
			b.Fatal("placed")
		}
	}
}
