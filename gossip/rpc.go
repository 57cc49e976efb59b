package gossip

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"shoal/gossip/plumtree"
	"shoal/gossip/stream"
)

const (
	// maxServing requests of one peer are worked on at a time.
	maxServing = 64
	// maxCalling requests to one peer wait for their answers.
	maxCalling = 256
	// callFor is how long a request without a deadline waits.
	callFor = 10 * time.Second
)

// Handler serves a method. from is the node that asks, by its certificate.
type Handler func(ctx context.Context, from string, payload []byte) ([]byte, error)

// RemoteError is what the handler on the other peer returned.
type RemoteError struct{ Peer, Method, Text string }

func (e *RemoteError) Error() string { return fmt.Sprintf("%s on %s: %s", e.Method, e.Peer, e.Text) }

// Handle registers a method, before Run.
func (n *Node) Handle(method string, h func(ctx context.Context, from string, payload []byte) ([]byte, error)) {
	n.handlers[method] = h
}

// Request calls a method on a peer, over a link that is made if there is none.
func (n *Node) Request(ctx context.Context, peer, method string, payload []byte) ([]byte, error) {
	if len(payload) > maxRequestBytes || len(method) > maxMethodBytes {
		return nil, fmt.Errorf("request %.128s of %s: %d bytes, limit %d", method, peer, len(payload), maxRequestBytes)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callFor)
		defer cancel()
	}
	if peer == n.o.Name {
		return n.handle(ctx, peer, method, payload)
	}
	l, err := n.reach(ctx, peer)
	if err != nil {
		return nil, fmt.Errorf("request %s of %s: %w", method, peer, err)
	}
	answer, err := l.call(ctx, method, payload)
	n.do(ctx, func(now time.Duration) { n.core.Touch(plumtree.Peer(peer), now) })
	if remote := (*RemoteError)(nil); err != nil && !errors.As(err, &remote) {
		err = fmt.Errorf("request %s of %s: %w", method, peer, err)
	}
	return answer, err
}

// reach returns a link, which may have to be made.
func (n *Node) reach(ctx context.Context, peer string) (*peerLink, error) {
	retry := time.NewTicker(retryLeast)
	defer retry.Stop()
	for {
		n.mu.Lock()
		l, arrived := n.links[peer], n.arrived
		n.mu.Unlock()
		if l != nil {
			return l, nil
		}
		if _, known := n.peer(peer); !known {
			return nil, errors.New("no such member is alive")
		}
		if !n.do(ctx, func(time.Duration) { n.dial(n.context(), peer, false) }) {
			return nil, errors.Join(errors.New("no link"), ctx.Err())
		}
		select {
		case <-arrived:
		case <-retry.C:
		case <-n.stopped:
			return nil, errors.New("gossip has stopped")
		case <-ctx.Done():
			return nil, fmt.Errorf("no link: %w", ctx.Err())
		}
	}
}

func (l *peerLink) call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	id, done, err := l.calls.begin()
	if err != nil {
		return nil, err
	}
	defer l.calls.forget(id)
	r := request{ID: id, Timeout: callFor, Method: method, Payload: payload}
	if deadline, ok := ctx.Deadline(); ok {
		r.Timeout = min(maxTimeout, time.Until(deadline))
	}
	if err := l.SendPaced(ctx, Frame{Kind: kindRequest, Payload: appendRequest(nil, r)}); err != nil {
		return nil, err
	}
	select {
	case a := <-done:
		if a.err != nil {
			return nil, a.err
		}
		if a.Failed {
			return nil, &RemoteError{Peer: l.Peer, Method: method, Text: string(a.Payload)}
		}
		return a.Payload, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve works on a request in a goroutine of its own.
func (n *Node) serve(ctx context.Context, l *peerLink, f Frame, children *sync.WaitGroup) error {
	r, err := decodeRequest(f.Payload)
	if err != nil {
		return err
	}
	n.do(ctx, func(now time.Duration) { n.core.Touch(plumtree.Peer(l.Peer), now) })
	select {
	case l.serving <- struct{}{}:
	default:
		l.respond(ctx, response{ID: r.ID, Failed: true, Payload: []byte("too many requests at once; try again")})
		return nil
	}
	children.Go(func() {
		defer func() { <-l.serving }()
		ctx, cancel := context.WithTimeout(ctx, r.Timeout)
		defer cancel()
		answer, err := n.handle(ctx, l.Peer, r.Method, r.Payload)
		out := response{ID: r.ID, Payload: answer}
		switch {
		case err != nil:
			out.Failed, out.Payload = true, []byte(err.Error())
		case len(answer) > maxRequestBytes:
			out.Failed, out.Payload = true, fmt.Appendf(nil, "the answer takes %d bytes, limit %d", len(answer), maxRequestBytes)
		}
		l.respond(ctx, out)
	})
	return nil
}

func (l *peerLink) respond(ctx context.Context, r response) {
	_ = l.SendPaced(ctx, Frame{Kind: kindResponse, Payload: appendResponse(nil, r)}) // the link's end tells the caller
}

func (n *Node) handle(ctx context.Context, from, method string, payload []byte) ([]byte, error) {
	h := n.handlers[method]
	if h == nil {
		return nil, fmt.Errorf("method %s is not known here; is this an older version of shoal?", method)
	}
	return h(ctx, from, payload)
}

// outstanding are the requests sent on one link that were not answered.
type outstanding struct {
	mu     sync.Mutex
	last   uint64
	calls  map[uint64]chan ended // guarded by mu
	failed error                 // guarded by mu
}

type ended struct {
	response
	err error
}

func (o *outstanding) begin() (uint64, chan ended, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.failed != nil:
		return 0, nil, o.failed
	case len(o.calls) >= maxCalling:
		return 0, nil, fmt.Errorf("%d requests wait for answers already", maxCalling)
	case o.calls == nil:
		o.calls = make(map[uint64]chan ended)
	}
	o.last++
	done := make(chan ended, 1)
	o.calls[o.last] = done
	return o.last, done, nil
}

func (o *outstanding) forget(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.calls, id)
}

func (o *outstanding) busy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.calls) > 0
}

func (o *outstanding) end(f stream.Frame) error {
	r, err := decodeResponse(f.Payload)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if done := o.calls[r.ID]; done != nil {
		delete(o.calls, r.ID)
		done <- ended{response: r}
	}
	return nil
}

func (o *outstanding) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = err
	for id, done := range o.calls {
		delete(o.calls, id)
		done <- ended{err: err}
	}
}
