package plumtree

import "time"

// Limits of what one peer remembers.
const (
	// maxSeen ids are remembered: over two minutes of 400 writes a second, far
	// beyond any repeat of an announcement.
	maxSeen = 1 << 16
	// maxCached payloads, and maxCachedBytes of them, are kept for those who
	// ask: ten seconds of 400 writes a second.
	maxCached      = 4096
	maxCachedBytes = 16 << 20
	// maxHeld is how long a payload is kept: five times as long as it is
	// announced (maxAnnounces).
	maxHeld = 15 * time.Second
)

// cache remembers which messages were seen, and the payloads of the latest.
type cache struct {
	seen  map[ID]*seen
	order fifo[ID]
	// payloads lists those whose payload is still held, oldest first.
	payloads fifo[ID]
	held     int
	bytes    int
}

type seen struct {
	hops    uint32
	parent  Peer
	payload []byte
	held    bool
	since   time.Duration // when it came
}

func newCache() cache { return cache{seen: make(map[ID]*seen)} }

func (c *cache) add(id ID, s *seen) {
	c.seen[id] = s
	c.order.push(id)
	for c.order.len() > maxSeen {
		old := c.order.pop()
		c.release(old)
		delete(c.seen, old)
	}
	if !s.held {
		return
	}
	c.payloads.push(id)
	c.held++
	c.bytes += len(s.payload)
	for c.held > maxCached || c.bytes > maxCachedBytes {
		c.release(c.payloads.pop())
	}
}

// expire lets go of payloads that nobody asks for any more.
func (c *cache) expire(now time.Duration) {
	for c.payloads.len() > 0 {
		oldest := c.payloads.peek()
		if s := c.seen[oldest]; s != nil && s.held && s.since+maxHeld > now {
			return
		}
		c.release(c.payloads.pop())
	}
}

func (c *cache) release(id ID) {
	s := c.seen[id]
	if s == nil || !s.held {
		return
	}
	c.held--
	c.bytes -= len(s.payload)
	s.held, s.payload = false, nil
}

// fifo is a queue whose memory follows its length.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) push(v T) { q.items = append(q.items, v) }
func (q *fifo[T]) len() int { return len(q.items) - q.head }
func (q *fifo[T]) peek() T  { return q.items[q.head] }

func (q *fifo[T]) pop() T {
	v := q.items[q.head]
	var zero T
	q.items[q.head] = zero
	q.head++
	if q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	return v
}
