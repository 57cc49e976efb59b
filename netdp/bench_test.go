package netdp

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

func BenchmarkAttach(b *testing.B) {
	l := newLab(b)
	benchmarkAttach(b, l, l.openUntilEnd())
}

func benchmarkAttach(b *testing.B, l *lab, d *Datapath) {
	for i := 0; b.Loop(); i++ {
		uid := fmt.Sprintf("pod-%d", i)
		if _, _, err := d.Attach(context.Background(), uid, "default", uid); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		l.must(d.Detach(context.Background(), uid))
		b.StartTimer()
	}
}

func BenchmarkDetach(b *testing.B) {
	l := newLab(b)
	d := l.openUntilEnd()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		uid := fmt.Sprintf("pod-%d", i)
		if _, _, err := d.Attach(context.Background(), uid, "default", uid); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		l.must(d.Detach(context.Background(), uid))
	}
}

// BenchmarkAttach100 and its counterpart are a Deployment of 100 coming and going.
func BenchmarkAttachDetach100(b *testing.B) {
	l := newLab(b)
	benchmarkAttachDetach100(b, l, l.openUntilEnd())
}

func benchmarkAttachDetach100(b *testing.B, l *lab, d *Datapath) {
	var n atomic.Int64
	for b.Loop() {
		each100(func() {
			uid := fmt.Sprintf("pod-%d", n.Add(1))
			if _, _, err := d.Attach(context.Background(), uid, "default", uid); err != nil {
				b.Error(err)
			}
		})
		b.StopTimer()
		uids, err := d.Attached(context.Background())
		l.must(err)
		b.StartTimer()
		var i atomic.Int64
		each100(func() { l.must(d.Detach(context.Background(), uids[i.Add(1)-1])) })
	}
}

// The same for pods that have IPv6 beside IPv4.

func BenchmarkAttachDual(b *testing.B) {
	l := dualLab(b)
	benchmarkAttach(b, l, l.openUntilEnd())
}

func BenchmarkAttachDetach100Dual(b *testing.B) {
	l := dualLab(b)
	benchmarkAttachDetach100(b, l, l.openUntilEnd())
}

func each100(f func()) {
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(f)
	}
	wg.Wait()
}
