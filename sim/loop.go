package sim

import (
	"container/heap"
	"time"
)

// loop is simulated time: what is to happen, soonest first, and in the order
// of planning where two things happen at once.
type loop struct {
	now    time.Duration
	order  uint64
	events eventHeap
}

type event struct {
	at    time.Duration
	order uint64
	do    func()
}

func (l *loop) after(d time.Duration, do func()) { l.at(l.now+max(d, 0), do) }

func (l *loop) at(at time.Duration, do func()) {
	l.order++
	heap.Push(&l.events, event{max(at, l.now), l.order, do})
}

// until runs what is due up to end, or until stop says so.
func (l *loop) until(end time.Duration, stop func() bool) {
	for len(l.events) > 0 && l.events[0].at <= end {
		e := heap.Pop(&l.events).(event)
		l.now = e.at
		e.do()
		if stop() {
			return
		}
	}
	l.now = end
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].order < h[j].order
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(e any)   { *h = append(*h, e.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}
