package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"shoal/netdp/dns/wire"
)

// maxFlights bounds questions in flight: each has a socket and a goroutine. A
// host's pods at their worst ask for a few hundred new names at once.
const maxFlights = 1024

// ErrBusy means that too many questions wait for other servers.
var ErrBusy = errors.New("too many questions wait for upstream DNS servers")

// Options are what a Forwarder works with.
type Options struct {
	// ResolvConf is where the host's servers are.
	ResolvConf string
	// Own tells our own addresses, which are not asked.
	Own    func(netip.Addr) bool
	Stubs  []Stub // from ParseStubs
	Logger *slog.Logger
}

// Forwarder asks other servers. All methods may be called from many goroutines.
type Forwarder struct {
	stubs   []Stub
	host    *resolvConf
	health  *health
	cache   *cache
	metrics *Metrics
	now     func() time.Time

	ctx    context.Context //nolint:containedctx // of the flights, which outlive who asked
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards flights and closing
	flights map[Question]*flight
	closing bool
}

// flight is a question that is being asked. The rest is set before done closes.
type flight struct {
	done   chan struct{}
	answer *wire.Packed
	err    error
}

// New makes a Forwarder. Close it.
func New(o Options) *Forwarder {
	f := &Forwarder{
		stubs:   o.Stubs,
		host:    &resolvConf{path: o.ResolvConf, own: o.Own, log: o.Logger},
		health:  &health{until: map[netip.AddrPort]time.Time{}},
		cache:   newCache(),
		now:     time.Now,
		flights: map[Question]*flight{},
	}
	f.metrics = newMetrics(func() float64 { return float64(f.cache.len()) })
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// Metrics are the Forwarder's, to be registered.
func (f *Forwarder) Metrics() prometheus.Collector { return f.metrics }

// Close ends what is in flight and waits for it.
func (f *Forwarder) Close() {
	f.mu.Lock()
	f.closing = true
	f.mu.Unlock()
	f.cancel()
	f.wg.Wait()
}

// Cached returns an answer that is kept, with its age in seconds.
func (f *Forwarder) Cached(q *wire.Query) (answer *wire.Packed, age uint32, ok bool) {
	answer, age, ok = f.cache.get(q.Name(), Question{Type: q.Type, DNSSEC: q.DNSSEC, NoCheck: q.NoCheck}, f.now())
	if ok {
		f.metrics.Hits.Inc()
	} else {
		f.metrics.Misses.Inc()
	}
	return answer, age, ok
}

// Ask asks the servers of a question, or waits for who asks already. Who looked into
// the cache just before somebody else's answer came gets that one.
func (f *Forwarder) Ask(ctx context.Context, q Question) (*wire.Packed, error) {
	fl, err := f.board(q)
	if err != nil {
		return nil, err
	}
	select {
	case <-fl.done:
		return fl.answer, fl.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for upstream DNS server: %w", context.Cause(ctx))
	}
}

// Resolve is the answer as records, from the cache if it is there.
func (f *Forwarder) Resolve(ctx context.Context, q Question) (*dns.Msg, error) {
	answer, age, ok := f.cache.get([]byte(q.Name), q, f.now())
	if !ok {
		var err error
		if answer, err = f.Ask(ctx, q); err != nil {
			return nil, err
		}
	}
	return answer.Msg(age)
}

// board returns the flight of a question, started if there is none and none has
// ended since the caller looked into the cache.
func (f *Forwarder) board(q Question) (*flight, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.flights[q]; fl != nil {
		return fl, nil
	}
	if f.closing {
		return nil, context.Canceled
	}
	// A flight is in the cache before it is off the list.
	if answer, _, ok := f.cache.get([]byte(q.Name), q, f.now()); ok {
		landed := &flight{done: make(chan struct{}), answer: answer}
		close(landed.done)
		return landed, nil
	}
	if len(f.flights) >= maxFlights {
		f.metrics.Failures.Inc()
		return nil, ErrBusy
	}
	fl := &flight{done: make(chan struct{})}
	f.flights[q] = fl
	f.wg.Go(func() { f.fly(q, fl) })
	return fl, nil
}

func (f *Forwarder) fly(q Question, fl *flight) {
	began := time.Now()
	old, until, hasOld := f.cache.old(q, f.now())
	timeout := askTimeout
	if hasOld {
		timeout = staleAfter
	}
	ctx, cancel := context.WithTimeout(f.ctx, timeout)
	defer cancel()
	m, err := f.ask(ctx, q, f.servers(q.Name))
	failed := err != nil || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError
	switch {
	case failed && hasOld:
		if fl.answer, fl.err = stale(old); fl.err == nil {
			f.metrics.Stale.Inc()
			f.cache.put(q, fl.answer, staleTTL, until, f.now())
		}
	case err != nil:
		fl.err = err
	default:
		m.Authoritative = false // it is no more, when it comes from us
		if fl.answer, fl.err = wire.Pack(m); fl.err == nil {
			now, keep := f.now(), lifetime(m, fl.answer)
			until := now.Add(keep)
			if !failed && answers(m) {
				until = until.Add(staleFor)
			}
			f.cache.put(q, fl.answer, keep, until, now)
		}
	}
	f.metrics.Seconds.Observe(time.Since(began).Seconds())
	if err != nil {
		f.metrics.Failures.Inc()
	}
	f.mu.Lock()
	delete(f.flights, q)
	f.mu.Unlock()
	close(fl.done)
}

// servers are those of the narrowest stub domain, or the host's.
func (f *Forwarder) servers(name string) []netip.AddrPort {
	for i := range f.stubs {
		if f.stubs[i].covers(name) {
			return f.stubs[i].Servers
		}
	}
	return f.host.get(f.now())
}
