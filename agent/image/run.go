package image

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Progress is one step of a pull or an import, in the order they happen. The
// last one has Done set.
type Progress struct {
	Image  string `json:"image,omitempty"`
	Status string `json:"status"`
	Bytes  int64  `json:"bytes,omitempty"`
	Total  int64  `json:"total,omitempty"` // 0 while not known
	// PeerBytes of Bytes came from hosts of the cell.
	PeerBytes int64  `json:"peerBytes,omitempty"`
	Digest    string `json:"digest,omitempty"` // of an image that is there now
	// Took is how long the work itself took, without waiting for its turn.
	Took  time.Duration `json:"took,omitempty"`
	Done  bool          `json:"done,omitempty"`
	Error string        `json:"error,omitempty"`
}

// reportEvery is how often a pull in progress reports.
const reportEvery = 500 * time.Millisecond

// run is one pull, however many wait for it. It ends early when nobody does.
type run struct {
	progress progress
	cancel   context.CancelFunc
	done     chan struct{}
	waiters  int // guarded by Store.mu

	img *Image // both set before done is closed
	err error
}

// progress counts what a pull moves.
type progress struct {
	bytes, peerBytes, total atomic.Int64

	mu     sync.Mutex
	status string        // guarded by mu
	took   time.Duration // guarded by mu
}

func (p *progress) set(status string) {
	p.mu.Lock()
	p.status = status
	p.mu.Unlock()
}

func (p *progress) now(name string) Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Progress{Image: name, Status: p.status, Bytes: p.bytes.Load(), Total: p.total.Load(), PeerBytes: p.peerBytes.Load(), Took: p.took}
}

// join waits for the run of that key, begun if there is none. A caller that
// gives up leaves the run to the others; the last one ends it, and waits for
// its end.
func (s *Store) join(ctx context.Context, key, name string, report func(Progress), work func(context.Context, *progress) (*Image, error)) (*Image, error) {
	s.mu.Lock()
	r := s.runs[key]
	if r == nil {
		r = s.begin(ctx, key, work)
	}
	r.waiters++
	s.mu.Unlock()
	defer s.leave(key, r)

	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	var told Progress
	for {
		if now := r.progress.now(name); now != told {
			told = now
			report(now)
		}
		select {
		case <-r.done:
			if now := r.progress.now(name); now != told {
				report(now)
			}
			return r.img, r.err
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// begin is called with mu held.
func (s *Store) begin(ctx context.Context, key string, work func(context.Context, *progress) (*Image, error)) *run {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &run{cancel: cancel, done: make(chan struct{})}
	r.progress.status = "waiting"
	s.runs[key] = r
	go func() {
		defer close(r.done)
		defer cancel()
		r.img, r.err = s.inTurn(ctx, &r.progress, work)
		s.mu.Lock()
		if s.runs[key] == r {
			delete(s.runs, key)
		}
		s.mu.Unlock()
	}()
	return r
}

func (s *Store) inTurn(ctx context.Context, p *progress, work func(context.Context, *progress) (*Image, error)) (*Image, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	began := time.Now()
	img, err := work(ctx, p)
	p.mu.Lock()
	p.took = time.Since(began)
	p.mu.Unlock()
	return img, err
}

func (s *Store) leave(key string, r *run) {
	s.mu.Lock()
	r.waiters--
	last := r.waiters == 0
	if last && s.runs[key] == r {
		delete(s.runs, key) // who comes now begins anew
	}
	s.mu.Unlock()
	if last {
		r.cancel()
		<-r.done
	}
}
