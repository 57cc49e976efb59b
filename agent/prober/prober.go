// Package prober asks this host's containers whether they are well: startup,
// liveness and readiness probes by http, tcp, grpc and exec, with the kubelet's
// timings, thresholds and words.
//
// One goroutine and one timer serve all probes. A question has a goroutine of
// its own for as long as it takes, which its timeout bounds, so a container that
// does not answer holds up no other; a probe asks its next question only after
// the last was answered, so nothing piles up. Between questions a probe is one
// small struct: no goroutine, no connection, no request.
//
// The pod runner starts and stops probes. This package does not end containers,
// and knows neither pods nor the API.
package prober

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
)

// firstRetry is how soon a probe that has not succeeded yet is tried again;
// the wait doubles up to the probe's own period. A server that is up 100 ms
// after its process is then ready in 100 ms, not after a whole period. Such
// tries fail without a word and without counting.
const firstRetry = 50 * time.Millisecond

// Kind says what a probe's answer is for.
type Kind int

// The kinds of probes.
const (
	Startup Kind = iota
	Liveness
	Readiness
)

// String is the kind as events have it.
func (k Kind) String() string { return [...]string{"Startup", "Liveness", "Readiness"}[k] }

// Task is what a probe asks, and whom it tells.
type Task struct {
	Kind  Kind
	Probe v1.Probe
	// Container has the name, ports and environment that a probe may refer to.
	Container *v1.Container
	IP        string    // the pod's
	Since     time.Time // the container's start, from which the initial delay counts
	// Spread delays the first question by a random part of the period: after a
	// daemon's restart all containers would be asked at once.
	Spread bool
	// Exec runs a command in the container: its exit code and output. An error
	// that is ErrTimedOut is a failed probe, any other says nothing.
	Exec func(ctx context.Context, command []string, timeout time.Duration) (int, string, error)
	// Verdict hears of each change, and of each failure of a startup or liveness
	// probe at its threshold. Note hears what a user wants to read. Both are
	// called from the question's goroutine.
	Verdict func(ok bool)
	Note    func(reason, message string)
	// Count, if any, hears of each answer that counts: successful, failed or
	// unknown, as the kubelet's metrics name them.
	Count func(result string)
}

// Prober runs probes.
type Prober struct {
	mu  sync.Mutex
	due queue // guarded by mu

	wake   chan struct{}
	asking sync.WaitGroup
}

// New makes a Prober. Probes may be started before Run is called.
func New() *Prober { return &Prober{wake: make(chan struct{}, 1)} }

// Probe is one that was started.
type Probe struct {
	p        *Prober
	question question
	kind     Kind
	period   time.Duration
	timeout  time.Duration
	verdict  func(bool)
	note     func(reason, message string)
	result   func(string)

	// The rest is guarded by p.mu, or belongs to the question under way.
	at      time.Time // the next question
	place   int       // in the queue; -1 if not there
	stopped bool
	tally   tally
	eager   time.Time // failures before do not count, until the first success
	retry   time.Duration
}

// Start begins to ask.
func (p *Prober) Start(t Task) *Probe {
	period := seconds(t.Probe.PeriodSeconds)
	b := &Probe{
		p: p, question: newQuestion(&t), kind: t.Kind, period: period, timeout: seconds(t.Probe.TimeoutSeconds),
		verdict: t.Verdict, note: t.Note, result: t.Count, place: -1, retry: firstRetry,
		tally: tally{success: max(t.Probe.SuccessThreshold, 1), failure: max(t.Probe.FailureThreshold, 1)},
	}
	now := time.Now()
	b.at = now
	if t.Kind == Liveness && !t.Spread {
		// A server needs a moment, and a failure counts. The kubelet's tickers,
		// which start with the pod, come to the same.
		b.at = now.Add(period)
	}
	if first := t.Since.Add(time.Duration(t.Probe.InitialDelaySeconds) * time.Second); first.After(b.at) {
		b.at = first
	}
	if t.Spread {
		b.at = b.at.Add(rand.N(period)) //nolint:gosec // not a secret
	}
	if t.Kind != Liveness && !t.Spread {
		b.eager = b.at.Add(period)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put(b)
	return b
}

// Kind is what the probe's answers are for.
func (b *Probe) Kind() Kind { return b.kind }

// seconds reads a time of the API, of which zero is one second.
func seconds(n int32) time.Duration { return time.Duration(max(n, 1)) * time.Second }

// Stop ends a probe. An answer on its way is not heard any more, or is being
// told already.
func (b *Probe) Stop() {
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	b.stopped = true
	if b.place >= 0 {
		heap.Remove(&b.p.due, b.place)
	}
}

// put is called with mu held.
func (p *Prober) put(b *Probe) {
	heap.Push(&p.due, b)
	if b.place == 0 {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// Run asks until ctx ends, and returns when no question is under way.
func (p *Prober) Run(ctx context.Context) {
	defer p.asking.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		if next := p.askDue(ctx); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// askDue begins the questions that are due and says when the next one is.
func (p *Prober) askDue(ctx context.Context) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.due) > 0 {
		b := p.due[0]
		if b.at.After(time.Now()) {
			return b.at
		}
		heap.Pop(&p.due)
		p.asking.Go(func() { b.ask(ctx) })
	}
	return time.Time{}
}

// ask asks once and puts the probe back for the next time.
func (b *Probe) ask(ctx context.Context) {
	began := time.Now()
	a := b.question(ctx, b.timeout)
	if ctx.Err() != nil {
		return
	}
	b.p.mu.Lock()
	stopped := b.stopped
	b.p.mu.Unlock()
	if stopped {
		return
	}
	tell, again := b.count(a, began)
	b.tell(a, tell)
	if !again {
		return
	}
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	if !b.stopped {
		b.p.put(b)
	}
}

// news is what an answer has changed.
type news int

const (
	nothingNew news = iota
	tooEarly        // a failure that does not count
	isWell
	isUnwell
)

// count adds an answer to the tally, sets when to ask next, and says what is
// new and whether there is a next time.
func (b *Probe) count(a answer, began time.Time) (news, bool) {
	ended := time.Now()
	if !a.ok && ended.Before(b.eager) {
		b.at, b.retry = ended.Add(b.retry), min(2*b.retry, b.period)
		return tooEarly, true
	}
	b.eager = time.Time{}
	// The next question comes one period after this one, or at the next such
	// moment when this one took longer.
	b.at = ended.Add(b.period - ended.Sub(began)%b.period)
	if a.err != nil {
		return nothingNew, true
	}
	verdict, changed := b.tally.add(a.ok)
	switch {
	case verdict == passing && changed:
		return isWell, b.kind != Startup
	case verdict == failing && b.kind != Readiness:
		// The container is ended; nothing more is asked of it.
		return isUnwell, false
	case verdict == failing && changed:
		return isUnwell, true
	}
	return nothingNew, true
}

func (b *Probe) tell(a answer, n news) {
	if n == tooEarly {
		return
	}
	if b.result != nil {
		b.result(a.result())
	}
	switch {
	case a.err != nil:
		b.note("Unhealthy", b.kind.String()+" probe errored and resulted in unknown state: "+a.err.Error())
	case !a.ok:
		b.note("Unhealthy", b.kind.String()+" probe failed: "+a.detail)
	case a.warning:
		b.note("ProbeWarning", b.kind.String()+" probe warning: "+a.detail)
	}
	switch n {
	case isWell:
		b.verdict(true)
	case isUnwell:
		b.verdict(false)
	}
}
