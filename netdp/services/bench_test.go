package services

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"shoal/netdp"
)

// told is a datapath that says when a service was set.
type told struct {
	*netdp.Datapath
	set chan string
}

func (d told) SetService(s netdp.Service) error {
	err := d.Datapath.SetService(s)
	d.set <- s.Key
	return err
}

// BenchmarkEndpointEvent adds and removes one of eleven endpoints of one of
// 10,000 services: from the event of the informer's watch to the kernel's maps.
func BenchmarkEndpointEvent(b *testing.B) {
	dp, err := netdp.Open(b.Context(), options(b))
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := dp.Remove(); err != nil {
			b.Error(err)
		}
	}()
	for n := range 9_999 {
		s := netdp.Service{Key: fmt.Sprint("service-", n), Proto: netdp.TCP,
			Frontends: []netdp.Frontend{{Addr: netip.AddrFrom4([4]byte{10, 0, byte(1 + n>>8), byte(n)}), Port: 80}}}
		for i := range 10 {
			addr := netip.AddrFrom4([4]byte{10, 100, byte(n >> 8), byte(n)})
			s.Backends = append(s.Backends, netdp.Backend{Addr: netip.AddrPortFrom(addr, uint16(8000+i))})
		}
		if err := dp.SetService(s); err != nil {
			b.Fatal(err)
		}
	}
	small := slice()
	for i := range 10 {
		small.Endpoints = append(small.Endpoints, endpoint(fmt.Sprintf("10.64.8.%d", i+1), "ready serving"))
	}
	large := small.DeepCopy()
	large.Endpoints = append(large.Endpoints, endpoint("10.64.8.11", "ready serving"))
	client := fake.NewClientset(service(), small)
	events := watch.NewFakeWithChanSize(1, false)
	client.PrependWatchReactor("endpointslices", clienttesting.DefaultWatchReactor(events, nil))
	watched := told{dp, make(chan string, 1)}
	c := New(Options{Datapath: watched, Informers: informers.NewSharedInformerFactory(client, 0), Node: "test",
		Logger: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go func() { done <- c.Run(b.Context()) }()
	<-watched.set
	var times []time.Duration
	for i := 0; b.Loop(); i++ {
		next := large
		if i%2 == 1 {
			next = small
		}
		start := time.Now()
		events.Modify(next)
		<-watched.set
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
}
