package cell

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// load is clients that write to peers until they are stopped, and the names of
// what was answered.
type load struct {
	stop    context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	answered []string // guarded by mu
	failed   map[string][]error
}

// pause keeps one writer from taking all of a small machine.
const pause = 5 * time.Millisecond

// startLoad writes to each of the peers; an error of one that may die is
// counted, and the client goes on.
func startLoad(t *testing.T, ns string, to ...*peer) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel, failed: map[string][]error{}}
	for _, p := range to {
		l.running.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("load-%s-%d", p.name, i)
				_, err := p.kube.CoreV1().ConfigMaps(ns).Create(ctx, configMap(name, map[string]string{"writer": p.name}), metav1.CreateOptions{})
				l.note(ctx, p, name, err)
				time.Sleep(pause)
			}
		})
	}
	t.Cleanup(func() { l.end() })
	return l
}

func (l *load) note(ctx context.Context, p *peer, name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.answered = append(l.answered, name)
	case ctx.Err() == nil:
		l.failed[p.name] = append(l.failed[p.name], err)
	}
}

// end stops the clients and returns what was answered.
func (l *load) end() []string {
	l.stop()
	l.running.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answered
}

// count is how many writes were answered so far.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.answered)
}

// unanswered fails the test if a peer that was up refused a write.
func (l *load) unanswered(t *testing.T, by ...*peer) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range by {
		if failures := l.failed[p.name]; len(failures) > 0 {
			t.Errorf("%s refused %d writes, the first: %v", p.name, len(failures), failures[0])
		}
	}
}

// held checks that peers have all that was answered.
func held(t *testing.T, ns string, answered []string, by ...*peer) {
	t.Helper()
	for _, p := range by {
		list, err := p.kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		ok(t, err)
		there, missing := names(list), 0
		for _, name := range answered {
			if !there[name] {
				missing++
				t.Logf("%s lacks %s", p.name, name)
			}
		}
		if missing > 0 {
			t.Errorf("%s lacks %d of %d answered writes", p.name, missing, len(answered))
		}
	}
}

// probe asks peers small things all the time and counts what is not answered.
type probe struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	asked   atomic.Int64

	mu     sync.Mutex
	failed []string // guarded by mu
	worst  time.Duration
}

const probeEvery = 100 * time.Millisecond

func startProbe(t *testing.T, ns, name string, of ...*peer) *probe {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	b := &probe{stop: cancel}
	for _, p := range of {
		b.running.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				began := time.Now()
				_, err := p.kube.CoreV1().ConfigMaps(ns).Get(ctx, name, metav1.GetOptions{})
				if err == nil {
					err = p.patch(ctx, ns, name, "probe-"+p.name, fmt.Sprint(i))
				}
				b.note(ctx, p, began, err)
				time.Sleep(probeEvery)
			}
		})
	}
	t.Cleanup(func() { b.end() })
	return b
}

func (b *probe) note(ctx context.Context, p *peer, began time.Time, err error) {
	if ctx.Err() != nil {
		return
	}
	b.asked.Add(2)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.worst = max(b.worst, time.Since(began))
	if err != nil {
		b.failed = append(b.failed, fmt.Sprintf("%s at %s: %v", p.name, began.Format(time.TimeOnly), err))
	}
}

func (b *probe) end() {
	b.stop()
	b.running.Wait()
}

// clean ends the probe and fails the test if anything was not answered.
func (b *probe) clean(t *testing.T) {
	t.Helper()
	b.end()
	t.Logf("%d requests on all peers, the slowest pair took %s", b.asked.Load(), b.worst.Round(time.Millisecond))
	if len(b.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(b.failed), b.asked.Load(), b.failed[0])
	}
}
