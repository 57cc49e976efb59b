package stream

import (
	"context"
	"errors"
	"sync"
)

// ErrOverflow says that a peer took in too little: all that waited for it is
// gone, and it must be brought up to date by anti-entropy.
var ErrOverflow = errors.New("peer is too slow; what waited for it was dropped")

// ErrClosed says that the link is gone.
var ErrClosed = errors.New("link is closed")

// queue is what waits to be sent on one link.
type queue struct {
	maxBytes int

	mu     sync.Mutex
	frames []Frame       // guarded by mu
	bytes  int           // guarded by mu
	closed bool          // guarded by mu
	lost   uint64        // guarded by mu
	filled chan struct{} // has one element while there may be frames
	freed  chan struct{} // closed and made anew when frames are taken; guarded by mu
}

func newQueue(maxBytes int) *queue {
	return &queue{maxBytes: maxBytes, filled: make(chan struct{}, 1), freed: make(chan struct{})}
}

// offer never blocks. A queue that is full is emptied.
func (q *queue) offer(f Frame) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	if q.bytes > 0 && q.bytes+size(f) > q.maxBytes {
		q.lost += uint64(len(q.frames)) + 1
		q.frames, q.bytes = nil, 0
		q.wakeWaiters()
		return ErrOverflow
	}
	q.add(f)
	return nil
}

// put waits for room.
func (q *queue) put(ctx context.Context, f Frame) error {
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return ErrClosed
		}
		if q.bytes == 0 || q.bytes+size(f) <= q.maxBytes/2 {
			q.add(f)
			q.mu.Unlock()
			return nil
		}
		freed := q.freed
		q.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (q *queue) add(f Frame) {
	q.frames = append(q.frames, f)
	q.bytes += size(f)
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

func size(f Frame) int { return headerBytes + len(f.Payload) }

// take appends up to most bytes of frames to dst, at least one frame if any.
func (q *queue) take(dst []byte, most int) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for ; n < len(q.frames) && (len(dst) == 0 || len(dst)+size(q.frames[n]) <= most); n++ {
		dst = appendFrame(dst, q.frames[n])
		q.bytes -= size(q.frames[n])
	}
	clear(q.frames[:n])
	q.frames = q.frames[n:]
	if len(q.frames) > 0 {
		select {
		case q.filled <- struct{}{}:
		default:
		}
	}
	if n > 0 {
		q.wakeWaiters()
	}
	return dst
}

func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

func (q *queue) wakeWaiters() {
	close(q.freed)
	q.freed = make(chan struct{})
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		q.frames, q.bytes = nil, 0
		q.wakeWaiters()
	}
}
