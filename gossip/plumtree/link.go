package plumtree

import "time"

// link is one neighbour.
type link struct {
	peer Peer
	// eager links get payloads, the others announcements.
	eager bool
	// keepUntil: a payload was asked for here just now, and duplicates alone
	// do not prune the link; see grace.
	keepUntil time.Duration
	grace     time.Duration
	// awaiting are messages the peer has not yet shown to have.
	awaiting map[ID]*awaited
	order    []*awaited
	// haves are to be told to the peer with the next flush.
	haves []Item
	// flushAt is when haves are due; set only while there are any.
	flushAt time.Duration
	// nextDue is no later than the earliest due of what is awaited.
	nextDue time.Duration
}

// awaited is one message a neighbour should come to have.
type awaited struct {
	item     Item
	due      time.Duration
	attempts int
	done     bool
}

const (
	// maxAwaited bounds what is repeated to one neighbour; the oldest is left
	// to anti-entropy when more come.
	maxAwaited = 4096
	// maxHaves bounds what is to be told in one flush.
	maxHaves = MaxItems
)

func newLink(p Peer) *link {
	return &link{peer: p, eager: true, awaiting: make(map[ID]*awaited), nextDue: never}
}

// await begins to repeat item to the peer, first at due.
func (l *link) await(item Item, due time.Duration) {
	if _, ok := l.awaiting[item.ID]; ok {
		return
	}
	if len(l.awaiting) >= maxAwaited {
		l.dropOldest()
	}
	a := &awaited{item: item, due: due}
	l.awaiting[item.ID] = a
	l.order = append(l.order, a)
	l.nextDue = min(l.nextDue, due)
}

// Two peers that hear one writer each through the other, in messages that are
// under way at the same time, both prune the writer, and do so again with all
// that they then ask for. So a link that was asked is kept for a while, longer
// each time, and the other duplicates go.
const (
	leastGrace = 500 * time.Millisecond
	mostGrace  = 8 * time.Second
)

func (l *link) keep(now time.Duration) {
	switch {
	case now < l.keepUntil:
		return
	case l.keepUntil == 0 || now >= l.keepUntil+mostGrace:
		l.keepUntil, l.grace = now, leastGrace // the first time may be a mere loss
	default:
		l.keepUntil = now + l.grace
		l.grace = min(2*l.grace, mostGrace)
	}
}

func (l *link) dropOldest() {
	for _, a := range l.order {
		if !a.done {
			l.settle(a.item.ID)
			return
		}
	}
}

// settle ends the repeating: the peer has it. It returns what was awaited.
func (l *link) settle(id ID) *awaited {
	a := l.awaiting[id]
	if a == nil {
		return nil
	}
	a.done = true
	delete(l.awaiting, id)
	if len(l.order) > 2*len(l.awaiting)+16 {
		l.compact()
	}
	return a
}

func (l *link) compact() {
	kept := l.order[:0]
	for _, a := range l.order {
		if !a.done {
			kept = append(kept, a)
		}
	}
	clear(l.order[len(kept):])
	l.order = kept
}

// tell queues a sign that we have item.
func (l *link) tell(item Item, now, within time.Duration) {
	if len(l.haves) >= maxHaves {
		return // the peer will ask again
	}
	if len(l.haves) == 0 {
		l.flushAt = now + within
	}
	l.haves = append(l.haves, item)
}

// deadline is when the link next needs a tick.
func (l *link) deadline() time.Duration {
	if len(l.haves) > 0 {
		return min(l.flushAt, l.nextDue)
	}
	return l.nextDue
}

// due takes what is to be announced now.
func (l *link) due(now time.Duration, timing *Timing) []Item {
	if now < l.nextDue {
		return nil
	}
	var items []Item
	l.nextDue = never
	for _, a := range l.order {
		if a.done {
			continue
		}
		if a.due <= now && len(items) < MaxItems {
			items = append(items, a.item)
			a.attempts++
			if a.attempts >= maxAnnounces {
				a.done = true
				delete(l.awaiting, a.item.ID)
				continue
			}
			a.due = now + timing.Repeat<<min(a.attempts-1, maxBackoffShift)
		}
		l.nextDue = min(l.nextDue, a.due)
	}
	l.compact()
	return items
}
