package plumtree

import (
	"slices"
	"time"
)

// accept takes a new message in and passes it on. from is empty for our own.
func (t *Tree) accept(item Item, from Peer, payload []byte, now time.Duration) {
	t.cache.expire(now)
	t.cache.add(item.ID, &seen{hops: item.Hops, parent: from, payload: payload, held: true, since: now})
	t.found(item.ID)
	if from != "" {
		t.stats.Delivered++
		t.out.Deliver = append(t.out.Deliver, Delivery{ID: item.ID, From: from, Hops: item.Hops, Payload: payload})
	}
	next := Item{ID: item.ID, Hops: item.Hops + 1}
	for _, l := range t.links {
		switch {
		case l.peer == from:
		case l.eager:
			t.push(l, next, payload)
			l.await(next, now+t.timing.Repeat)
		default:
			l.await(next, now+t.timing.Batch)
		}
	}
}

func (t *Tree) push(l *link, item Item, payload []byte) {
	t.stats.Pushed++
	t.send(l.peer, Message{Type: Push, Items: []Item{item}, Payload: payload})
}

func (t *Tree) pushed(l *link, item Item, payload []byte, now time.Duration) {
	l.tell(item, now, t.timing.Batch)
	if t.cache.seen[item.ID] != nil {
		t.stats.Duplicates++
		l.settle(item.ID)
		if now >= l.keepUntil {
			t.prune(l)
		}
		return
	}
	l.eager = true
	t.accept(item, l.peer, payload, now)
}

func (t *Tree) prune(l *link) {
	t.stats.Pruned++
	l.eager = false
	t.send(l.peer, Message{Type: Prune})
}

func (t *Tree) announced(l *link, item Item, now time.Duration) {
	known := t.cache.seen[item.ID]
	if known == nil {
		t.want(l.peer, item, now)
		return
	}
	a := l.settle(item.ID)
	// Where announcements cross, each is the answer to the other. If ours was
	// lost, this one is repeated, and nothing is awaited then.
	if a == nil || a.attempts == 0 {
		l.tell(item, now, t.timing.Batch)
	}
	t.shorten(l, item, known, now)
}

// shorten takes a much shorter path into the tree, at most one in a while. The
// longer path is not pruned here: the next message comes over both, and the
// later copy prunes its link. Pruning at once, as the paper does for a single
// writer, made the tree of many writers three times as slow and 1.2 copies of
// each payload out of one.
func (t *Tree) shorten(l *link, item Item, known *seen, now time.Duration) {
	if l.eager || known.parent == "" || item.Hops+shorterHops > known.hops || now < t.nextShorten {
		return
	}
	t.nextShorten = now + shortenEvery
	l.eager = true
	t.stats.Grafted++
	t.send(l.peer, Message{Type: Graft})
}

// want notes who has a message that is missing here.
func (t *Tree) want(from Peer, item Item, now time.Duration) {
	m := t.missing[item.ID]
	if m == nil {
		if len(t.missing) >= maxMissing {
			return // it will be announced again
		}
		m = &missing{item: item, due: now + t.timing.Graft}
		t.missing[item.ID] = m
		t.wanted = append(t.wanted, m)
		t.nextAsk = min(t.nextAsk, m.due)
	}
	if len(m.sources) < maxSources && !slices.Contains(m.sources, from) {
		m.sources = append(m.sources, from)
	}
}

// found ends the waiting for a message.
func (t *Tree) found(id ID) {
	m := t.missing[id]
	if m == nil {
		return
	}
	m.done = true
	delete(t.missing, id)
	if len(t.wanted) > 2*len(t.missing)+16 {
		t.compactWanted()
	}
}

func (t *Tree) compactWanted() {
	t.wanted = slices.DeleteFunc(t.wanted, func(m *missing) bool { return m.done })
}

// ask asks for what is late, of all peers in one message each.
func (t *Tree) ask(now time.Duration) {
	asks := make(map[Peer][]Item)
	t.nextAsk = never
	for _, m := range t.wanted {
		if m.done {
			continue
		}
		if m.due <= now {
			t.askOne(m, now, asks)
			if m.grafts >= maxGrafts {
				m.done = true
				delete(t.missing, m.item.ID)
				continue
			}
		}
		t.nextAsk = min(t.nextAsk, m.due)
	}
	t.compactWanted()
	for _, l := range t.links {
		for items := range slices.Chunk(asks[l.peer], MaxItems) {
			l.eager = true
			l.keep(now)
			t.stats.Grafted++
			t.send(l.peer, Message{Type: Graft, Items: items})
		}
	}
}

// askOne asks one source the first time, then ever more of them: a second
// copy costs less than a second timeout.
func (t *Tree) askOne(m *missing, now time.Duration, asks map[Peer][]Item) {
	m.due = now + t.timing.Retry
	m.grafts++
	if m.grafts > 1 {
		m.due += t.timing.Retry << min(m.grafts-2, maxBackoffShift) / 4
	}
	for range min(m.grafts, len(m.sources)) {
		p := m.sources[m.asked%len(m.sources)]
		m.asked++
		asks[p] = append(asks[p], m.item)
	}
}

// grafted gives what was asked for.
func (t *Tree) grafted(l *link, items []Item, now time.Duration) {
	l.eager = true
	for _, item := range items {
		s := t.cache.seen[item.ID]
		if s == nil || !s.held {
			t.stats.Expired++
			continue
		}
		t.stats.Given++
		next := Item{ID: item.ID, Hops: s.hops + 1}
		t.push(l, next, s.payload)
		l.await(next, now+t.timing.Repeat)
	}
}
