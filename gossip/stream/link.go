package stream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// batchBytes and batchEvery bound a batch: a frame leaves at once on a
	// link that rested so long, and with what gathered meanwhile on a busy one.
	batchBytes = 64 << 10
	batchEvery = 3 * time.Millisecond
	// queueBytes waits for a peer at most: four of the largest frames.
	queueBytes = 4 * MaxFrameBytes
	// bytesPerSecond leaves most of a 1 Gbit/s port to others; burstBytes is a
	// fifth of a second of it.
	bytesPerSecond = 40 << 20
	burstBytes     = 8 << 20
	// aliveEvery and silentFor: a link on which nothing came for so long is
	// dead. TCP alone would notice after minutes.
	aliveEvery = 5 * time.Second
	silentFor  = 20 * time.Second
)

// Link is one authenticated connection to a peer.
type Link struct {
	// Peer is the node at the other end, by its certificate.
	Peer string
	// Version is the protocol version both speak.
	Version uint16

	conn   *tls.Conn
	clock  Clock
	queue  *queue
	bucket *bucket // the writer's alone
	sent   atomic.Uint64
	got    atomic.Uint64
}

// LinkStats count since the link was made.
type LinkStats struct {
	SentBytes, ReceivedBytes uint64
	// LostFrames were dropped because the peer was slow.
	LostFrames uint64
	// WaitingBytes are to be sent.
	WaitingBytes int
}

// Stats returns the counters.
func (l *Link) Stats() LinkStats {
	s := LinkStats{SentBytes: l.sent.Load(), ReceivedBytes: l.got.Load(), WaitingBytes: l.queue.waiting()}
	l.queue.mu.Lock()
	s.LostFrames = l.queue.lost
	l.queue.mu.Unlock()
	return s
}

// Send queues a frame and never blocks; ErrOverflow says that the peer needs
// anti-entropy. The payload must not be changed afterwards.
func (l *Link) Send(f Frame) error {
	if err := checkFrame(f); err != nil {
		return err
	}
	return l.queue.offer(f)
}

// SendPaced queues a frame when there is room, for what can wait: snapshots and
// answers. It leaves half of the queue to Send.
func (l *Link) SendPaced(ctx context.Context, f Frame) error {
	if err := checkFrame(f); err != nil {
		return err
	}
	return l.queue.put(ctx, f)
}

func checkFrame(f Frame) error {
	if f.Kind < FirstKind || len(f.Payload) > MaxFrameBytes {
		return fmt.Errorf("send frame of kind %d and %d bytes: %w", f.Kind, len(f.Payload), ErrBadFrame)
	}
	return nil
}

// Close ends the link.
func (l *Link) Close() error {
	l.queue.close()
	return l.conn.NetConn().Close()
}

// Run moves frames until the link ends, and returns why: nil if ctx ended or
// the peer closed it. handle is called for one frame after the other; while it
// works, nothing more is read, which is what holds a peer back that sends too
// much.
func (l *Link) Run(ctx context.Context, handle func(Frame) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { cancel(l.read(handle)) })
	both.Go(func() { cancel(l.write(ctx)) })
	both.Wait()
	err := context.Cause(ctx)
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (l *Link) read(handle func(Frame) error) error {
	r := bufio.NewReaderSize(l.conn, batchBytes)
	for {
		if err := l.conn.SetReadDeadline(time.Now().Add(silentFor)); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
		f, err := readFrame(r)
		if err != nil {
			return fmt.Errorf("read from %s: %w", l.Peer, err)
		}
		l.got.Add(uint64(size(f)))
		if f.Kind == keepAlive {
			continue
		}
		if err := handle(f); err != nil {
			return fmt.Errorf("handle frame of %s: %w", l.Peer, err)
		}
	}
}

func (l *Link) write(ctx context.Context) error {
	var batch []byte
	for {
		batch = batch[:0]
		select {
		case <-ctx.Done():
			return nil
		case <-l.queue.filled:
			batch = l.queue.take(batch, batchBytes)
		case <-l.clock.After(aliveEvery):
			batch = appendFrame(batch, Frame{Kind: keepAlive})
		}
		if len(batch) == 0 {
			continue // it was dropped meanwhile
		}
		if err := l.flush(ctx, batch); err != nil {
			return err
		}
		if len(batch) < batchBytes/2 && !l.wait(ctx, batchEvery) {
			return nil
		}
		if cap(batch) > 2*batchBytes {
			batch = nil // a large frame's memory is not kept
		}
	}
}

func (l *Link) flush(ctx context.Context, batch []byte) error {
	if d := l.bucket.take(len(batch), l.clock.Now()); d > 0 && !l.wait(ctx, d) {
		return nil
	}
	if err := l.conn.SetWriteDeadline(time.Now().Add(silentFor)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	n, err := l.conn.Write(batch)
	l.sent.Add(uint64(n))
	if err != nil {
		return fmt.Errorf("write to %s: %w", l.Peer, err)
	}
	return nil
}

// wait reports false if ctx ended first.
func (l *Link) wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-l.clock.After(d):
		return true
	}
}
