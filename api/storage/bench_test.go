package storage

import (
	"fmt"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	apiserverstorage "k8s.io/apiserver/pkg/storage"
)

// benchCallers is what the API's own figures are taken with.
const benchCallers = 8

// inParallel calls f for 0..n-1 from benchCallers goroutines.
func inParallel(b *testing.B, n int, f func(i int) error) {
	b.Helper()
	var next atomic.Int64
	errs := make(chan error, benchCallers)
	for range benchCallers {
		go func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range benchCallers {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "ops/s")
}

func BenchmarkCreate(b *testing.B) {
	s := newSetup(b, withClockVersions())
	b.ResetTimer()
	inParallel(b, b.N, func(i int) error {
		name := fmt.Sprintf("p%d", i)
		return s.Create(s.ctx, "/pods/ns/"+name, testPod(name), &example.Pod{}, 0)
	})
}

func BenchmarkUpdate(b *testing.B) {
	s := newSetup(b, withClockVersions())
	const objects = 256
	for i := range objects {
		s.create(b, fmt.Sprintf("p%d", i))
	}
	b.ResetTimer()
	inParallel(b, b.N, func(i int) error {
		key := fmt.Sprintf("/pods/ns/p%d", i%objects)
		return s.GuaranteedUpdate(s.ctx, key, &example.Pod{}, false, nil, apiserverstorage.SimpleUpdate(
			func(obj runtime.Object) (runtime.Object, error) {
				pod := obj.(*example.Pod)
				pod.Labels = map[string]string{"l": fmt.Sprint(i)}
				return pod, nil
			}), nil)
	})
}

func BenchmarkGet(b *testing.B) {
	s := newSetup(b, withClockVersions())
	s.create(b, "a")
	b.ResetTimer()
	inParallel(b, b.N, func(int) error {
		return s.Get(s.ctx, "/pods/ns/a", apiserverstorage.GetOptions{}, &example.Pod{})
	})
}

func BenchmarkList3000(b *testing.B) {
	s := newSetup(b, withClockVersions())
	const objects = 3000
	inParallel(b, objects, func(i int) error {
		name := fmt.Sprintf("p%d", i)
		return s.Create(s.ctx, "/pods/ns/"+name, testPod(name), nil, 0)
	})
	for b.Loop() {
		list := &example.PodList{}
		if err := s.GetList(s.ctx, "/pods", everything(), list); err != nil || len(list.Items) != objects {
			b.Fatalf("listed %d of %d: %v", len(list.Items), objects, err)
		}
	}
}
