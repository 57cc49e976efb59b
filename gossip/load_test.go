package gossip

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/store"
	"shoal/test/eventually"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (p *testPeer) moved() (bytes uint64) {
	for _, s := range p.status().Peers {
		bytes += s.SentBytes
	}
	return bytes
}

// BenchmarkCell measures five peers in one process: idle, and under a steady
// load on one of them.
func BenchmarkCell(b *testing.B) {
	const writesPerSecond, runFor, idleFor = 400, 10 * time.Second, 10 * time.Second
	peers := startCell(b, "a", "b", "c", "d", "e")
	time.Sleep(2 * time.Second)
	for b.Loop() {
		cpu, moved := cpuTime(), peers[0].moved()
		time.Sleep(idleFor)
		b.ReportMetric(float64(cpuTime()-cpu)/float64(idleFor)/float64(len(peers))*100, "idle-%cpu/peer")
		b.ReportMetric(float64(peers[0].moved()-moved)/idleFor.Seconds(), "idle-B/s/peer")

		watched := make([]map[string]time.Time, len(peers))
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{}, len(peers))
		for i, p := range peers {
			watched[i] = map[string]time.Time{}
			w, err := p.db.Watch("/registry/", p.db.Version())
			if err != nil {
				b.Fatal(err)
			}
			go func() {
				defer func() { w.Stop(); done <- struct{}{} }()
				for {
					select {
					case <-w.Ready():
					case <-ctx.Done():
						return
					}
					events, _, err := w.Take()
					if err != nil {
						return
					}
					for _, e := range events {
						watched[i][e.Key] = time.Now()
					}
				}
			}()
		}
		cpu = cpuTime()
		written := make(map[string]time.Time)
		tick := time.NewTicker(time.Second / writesPerSecond)
		began := time.Now()
		for i := 0; time.Since(began) < runFor; i++ {
			<-tick.C
			key := fmt.Sprintf("/registry/pods/default/%d", i)
			peers[0].write(key, strings.Repeat("x", 1200))
			written[key] = time.Now()
		}
		tick.Stop()
		last := time.Now()
		eventually.True(b, "all equal", func() bool { return equalPeers(peers...) })
		b.ReportMetric(float64(time.Since(last).Milliseconds()), "equal-ms")
		b.ReportMetric(float64(len(written))/runFor.Seconds(), "writes/s")
		b.ReportMetric(float64(cpuTime()-cpu)/float64(runFor)/float64(len(peers))*100, "load-%cpu/peer")
		time.Sleep(100 * time.Millisecond)
		cancel()
		for range peers {
			<-done
		}
		var took []time.Duration
		for key, at := range written {
			var seen time.Time
			for i := range peers[1:] {
				if t := watched[i+1][key]; t.After(seen) {
					seen = t
				}
			}
			took = append(took, seen.Sub(at))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		var tree, dups uint64
		for _, p := range peers[1:] {
			s := p.status()
			tree += s.Tree.Delivered
			dups += s.Tree.Duplicates
		}
		b.ReportMetric(float64(tree+dups)/float64(len(written)*4), "copies/peer")
	}
}

// TestJoinOfTenThousand: a fresh peer takes a snapshot from databases on disk.
func TestJoinOfTenThousand(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	peers := startCell(t, "a", "b")
	errs := make(chan error, 64)
	for w := range cap(errs) {
		go func() {
			for i := w; i < 10_000; i += cap(errs) {
				key := fmt.Sprintf("/registry/pods/default/%d", i)
				if _, err := peers[0].db.Update(context.Background(), store.Update{
					Key: key, Expect: store.Any, Value: []byte(strings.Repeat("x", 1200)), UID: key,
				}); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	eventually.True(t, "both equal", func() bool { return equalPeers(peers...) })
	began := time.Now()
	fresh := &testPeer{t: t, name: "c", dir: t.TempDir(), authority: peers[0].authority, seeds: []string{peers[0].node.Address().String()}, joining: true}
	fresh.start()
	t.Cleanup(fresh.stop)
	fresh.write(store.MemberKey(fresh.db.Actor()), "me")
	eventually.True(t, "all equal", func() bool { return equalPeers(append(peers, fresh)...) })
	s := fresh.status()
	t.Logf("serves all %v after its start; %d snapshots", time.Since(began), s.Counters.Snapshots)
	if s.Counters.Snapshots == 0 || s.Joining {
		t.Errorf("not by a snapshot: %+v", s)
	}
}

// TestBackUnderLoad: a peer that died comes back while others write.
func TestBackUnderLoad(t *testing.T) {
	peers := startCell(t, "a", "b", "c")
	peers[2].write("/registry/x", "1")
	eventually.True(t, "all equal", func() bool { return equalPeers(peers...) })
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				peers[i%2].write(fmt.Sprintf("/registry/pods/%d", i%500), fmt.Sprint(i))
			}
		}
	}()
	peers[2].stop()
	time.Sleep(2 * time.Second) // what it misses
	peers[2].start()
	time.Sleep(time.Second) // load while it catches up
	close(stop)
	<-done
	eventually.True(t, "all equal", func() bool { return equalPeers(peers...) })
	for _, p := range peers {
		if s := p.status(); s.Alarm != nil || s.Counters.LinksCut > 0 {
			t.Errorf("%s: %+v", p.name, s)
		}
	}
}

func TestLeaveForgetRotate(t *testing.T) {
	peers := startCell(t, "a", "b", "c")
	eventually.True(t, "all took the new key", func() bool { return peers[0].node.RotateKey([]byte(strings.Repeat("k", 32))) == nil })
	changed, stop := peers[0].node.Watch()
	defer stop()
	if err := peers[2].node.Leave(t.Context()); err != nil {
		t.Error(err)
	}
	peers[2].stop()
	eventually.True(t, "it has left", func() bool { return len(peers[0].node.Members()) == 2 })
	eventually.True(t, "somebody was told", func() bool { return len(changed) > 0 })
	if err := peers[0].node.Forget("c"); err != nil {
		t.Error(err)
	}
	peers[0].write("/registry/x", "1")
	eventually.True(t, "the rest goes on", func() bool { return peers[1].has("/registry/x", "1") })
}
