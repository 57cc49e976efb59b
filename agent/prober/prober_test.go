package prober

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
)

// said collects what a probe tells.
type said struct {
	mu    sync.Mutex
	lines []string
	began time.Time
}

func (s *said) add(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%s %s", time.Since(s.began), text))
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// scripted is a task whose command ends with the codes given, the last for ever.
func (s *said) scripted(kind Kind, p v1.Probe, codes ...int) Task {
	p.Exec = &v1.ExecAction{Command: []string{"true"}}
	n := 0
	return Task{
		Kind: kind, Probe: p, Container: &v1.Container{Name: "c"}, Since: time.Now(),
		Exec: func(context.Context, []string, time.Duration) (int, string, error) {
			code := codes[min(n, len(codes)-1)]
			n++
			if code < 0 {
				return 0, "", errors.New("no such container")
			}
			return code, "out", nil
		},
		Verdict: func(ok bool) { s.add(fmt.Sprint("well ", ok)) },
		Note:    func(reason, message string) { s.add(reason + ": " + message) },
	}
}

// TestTimings runs probes against a clock of their own.
func TestTimings(t *testing.T) {
	for _, test := range []struct {
		name  string
		kind  Kind
		probe v1.Probe
		codes []int
		after time.Duration
		want  string
	}{
		{"readiness is eager, quietly, in its first period", Readiness, v1.Probe{PeriodSeconds: 10, FailureThreshold: 1}, []int{1, 1, 0},
			25 * time.Second, "150ms well true"},
		{"the initial delay counts from the start", Readiness, v1.Probe{InitialDelaySeconds: 7, PeriodSeconds: 10}, []int{0},
			time.Minute, "7s well true"},
		{"thresholds", Liveness, v1.Probe{PeriodSeconds: 5, FailureThreshold: 3}, []int{0, 1, 1, 0, 1, 1, 1, 1},
			time.Minute, "5s well true\n10s Unhealthy: Liveness probe failed: out\n15s Unhealthy: Liveness probe failed: out\n" +
				"25s Unhealthy: Liveness probe failed: out\n30s Unhealthy: Liveness probe failed: out\n35s Unhealthy: Liveness probe failed: out\n35s well false"},
		{"readiness comes back after two successes", Readiness, v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, SuccessThreshold: 2}, []int{0, 0, 1, 0, 0},
			10 * time.Second, "1s well true\n2s Unhealthy: Readiness probe failed: out\n2s well false\n4s well true"},
		{"a startup probe stops with its success", Startup, v1.Probe{PeriodSeconds: 1}, []int{0, 1},
			10 * time.Second, "0s well true"},
		{"a startup probe that fails", Startup, v1.Probe{PeriodSeconds: 1, FailureThreshold: 2}, []int{1},
			10 * time.Second, "1.55s Unhealthy: Startup probe failed: out\n2.55s Unhealthy: Startup probe failed: out\n2.55s well false"},
		{"what cannot be asked says nothing", Liveness, v1.Probe{PeriodSeconds: 5, FailureThreshold: 1}, []int{-1, -1, -1, 0},
			11 * time.Second, "5s Unhealthy: Liveness probe errored and resulted in unknown state: no such container\n10s well true"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := New()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go p.Run(ctx)
				s := &said{began: time.Now()}
				b := p.Start(s.scripted(test.kind, test.probe, test.codes...))
				time.Sleep(test.after)
				b.Stop()
				if got := s.String(); got != test.want {
					t.Errorf("it said\n%s\nwant\n%s", got, test.want)
				}
			})
		})
	}
}

// TestNothingPilesUp: a container that never answers is asked one question at
// a time, and others are asked meanwhile.
func TestNothingPilesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.Run(ctx)
		s := &said{began: time.Now()}
		under, most, asked := 0, 0, 0
		for range 100 {
			hung := s.scripted(Liveness, v1.Probe{PeriodSeconds: 1, TimeoutSeconds: 30, FailureThreshold: 1000}, 0)
			var mine int
			hung.Exec = func(ctx context.Context, _ []string, _ time.Duration) (int, string, error) {
				s.mu.Lock()
				mine++
				asked++
				under = mine
				most = max(most, under)
				s.mu.Unlock()
				select {
				case <-time.After(30 * time.Second):
				case <-ctx.Done():
				}
				s.mu.Lock()
				mine--
				s.mu.Unlock()
				return 0, "", ErrTimedOut
			}
			hung.Note = func(string, string) {}
			p.Start(hung)
		}
		p.Start(s.scripted(Readiness, v1.Probe{PeriodSeconds: 1}, 0))
		time.Sleep(65 * time.Second)
		s.mu.Lock()
		if most != 1 || asked != 300 {
			t.Errorf("%d questions of one probe at once, %d in all; want 1 and 300", most, asked)
		}
		s.mu.Unlock()
		if got := s.String(); got != "0s well true" {
			t.Errorf("the probe beside them said %q", got)
		}
	})
}

// TestSpread: after a daemon's restart, questions are spread over the period.
func TestSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.Run(ctx)
		s := &said{began: time.Now()}
		perSecond := map[int]int{}
		for range 1000 {
			task := s.scripted(Readiness, v1.Probe{PeriodSeconds: 10}, 0)
			task.Spread = true
			task.Verdict = func(bool) {
				s.mu.Lock()
				defer s.mu.Unlock()
				perSecond[int(time.Since(s.began)/time.Second)]++
			}
			p.Start(task)
		}
		time.Sleep(11 * time.Second)
		for second := range 10 {
			if n := perSecond[second]; n < 40 || n > 180 {
				t.Errorf("%d of 1000 probes in second %d", n, second)
			}
		}
	})
}
