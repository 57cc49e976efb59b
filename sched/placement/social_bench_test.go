package placement

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BenchmarkFill places 50,000 pods of 500 templates on 5,000 empty nodes, each
// with requests, a zone spread and anti-affinity (required for a tenth, else
// preferred) between replicas; then it fills up to 150,000 for the memory.
func BenchmarkFill(b *testing.B) {
	for range b.N {
		before := heap()
		s := NewSnapshot()
		for i := range 5000 {
			s.SetNode(nodeArgument{
				Cap:    v1.ResourceList{"cpu": quantity("64"), "memory": quantity("256Gi"), "pods": quantity("110")},
				Labels: map[string]string{v1.LabelTopologyZone: zones[i%len(zones)]},
			}.node(fmt.Sprintf("node-%d", i)))
		}
		took := make([]time.Duration, 0, 50000)
		start := time.Now()
		for i := range 50000 {
			pod := socialPod(i)
			began := time.Now()
			result := s.Place(pod)
			if result.Node == "" {
				b.Fatal(result.Diagnosis)
			}
			s.SetPod(pod, result.Node)
			took = append(took, time.Since(began))
		}
		b.ReportMetric(50000/time.Since(start).Seconds(), "pods/s")
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		for i := 50000; i < 150000; i++ {
			pod := socialPod(i)
			s.SetPod(pod, s.Place(pod).Node)
		}
		b.ReportMetric(float64(heap()-before)/1e6, "MB-150k")
		runtime.KeepAlive(s)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func socialPod(i int) *v1.Pod {
	app := fmt.Sprintf("app-%d", i/100)
	pod := podArgument{
		Owner: app, Labels: map[string]string{"app": app},
		Req: v1.ResourceList{"cpu": quantity("100m"), "memory": quantity("64Mi")},
	}.pod(fmt.Sprintf("%s-%d", app, i))
	selector := &metav1.LabelSelector{MatchLabels: pod.Labels}
	pod.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: v1.LabelTopologyZone, WhenUnsatisfiable: v1.DoNotSchedule, LabelSelector: selector}}
	term := v1.PodAffinityTerm{TopologyKey: v1.LabelHostname, LabelSelector: selector}
	apart := &v1.PodAntiAffinity{}
	if i/100%10 == 0 {
		apart.RequiredDuringSchedulingIgnoredDuringExecution = []v1.PodAffinityTerm{term}
	} else {
		apart.PreferredDuringSchedulingIgnoredDuringExecution = []v1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: term}}
	}
	pod.Spec.Affinity = &v1.Affinity{PodAntiAffinity: apart}
	return pod
}
