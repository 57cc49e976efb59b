package sched

import (
	"container/heap"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/utils/clock"

	"shoal/sched/placement"
)

// A pod that failed waits at least firstBackoff, doubled per attempt up to
// longestBackoff, and then for a change that may help it. A try costs well
// under a millisecond, so the wait is there to gather changes, not to spare the
// API server, which a repeated failure does not touch.
const (
	firstBackoff   = 20 * time.Millisecond
	longestBackoff = time.Second
)

// place tells where an item is kept.
type place uint8

const (
	inActive  place = iota // in the heap, to be tried
	inBackoff              // in the heap of those whose time has not come
	inParked               // waiting for a change
	inHand                 // being placed or bound
)

// item is a pod that has no node yet.
type item struct {
	pod      *v1.Pod
	place    place
	index    int // in its heap
	sequence uint64
	attempts int
	readyAt  time.Time
	waits    placement.Change
	reported outcome // last written to the pod
}

// outcome is what a pod that found no node is told.
type outcome struct {
	message   string
	nominated string // the node it is promised
}

func (it *item) name() string { return podName(it.pod) }

// queue orders the pods to be placed: by priority, then by arrival. It holds at
// most the pods the API server holds. Its owner guards it with a lock.
type queue struct {
	clock    clock.WithDelayedExecution
	wake     func() // called when next may have something again; must not block
	items    map[types.UID]*item
	active   itemHeap
	backoff  itemHeap
	parked   map[types.UID]*item
	happened placement.Change // changes not yet shown to the parked
	sequence uint64
	alarm    clock.Timer
}

func newQueue(c clock.WithDelayedExecution, wake func()) *queue {
	return &queue{
		clock:   c,
		wake:    wake,
		items:   map[types.UID]*item{},
		active:  itemHeap{less: byPriority},
		backoff: itemHeap{less: byReadyTime},
		parked:  map[types.UID]*item{},
	}
}

func byPriority(a, b *item) bool {
	if p, q := corev1helpers.PodPriority(a.pod), corev1helpers.PodPriority(b.pod); p != q {
		return p > q
	}
	return a.sequence < b.sequence
}

func byReadyTime(a, b *item) bool { return a.readyAt.Before(b.readyAt) }

// set queues a pod that is new or whose spec changed; one that is in hand only
// gets its newer state.
func (q *queue) set(pod *v1.Pod) {
	it, known := q.items[pod.UID]
	if !known {
		q.sequence++
		it = &item{sequence: q.sequence, place: inHand}
		q.items[pod.UID] = it
	}
	it.pod = pod
	if known && it.place == inHand {
		return
	}
	q.take(it)
	q.activate(it)
}

// refresh keeps a queued pod's newer state without trying it any sooner.
func (q *queue) refresh(pod *v1.Pod) {
	if it, ok := q.items[pod.UID]; ok {
		it.pod = pod
	}
}

func (q *queue) has(uid types.UID) bool { _, ok := q.items[uid]; return ok }

// drop forgets a pod.
func (q *queue) drop(uid types.UID) {
	if it, ok := q.items[uid]; ok {
		q.take(it)
		delete(q.items, uid)
	}
}

// next hands out the pod to place, or nil when there is none now.
func (q *queue) next() *item {
	q.wakeParked()
	q.ripen()
	if q.active.Len() == 0 {
		return nil
	}
	it := q.active.items[0]
	q.take(it)
	it.attempts++
	return it
}

// park keeps a pod in hand until one of the changes happens. With no change to
// wait for, only a change of the pod itself brings it back.
func (q *queue) park(it *item, waits placement.Change) {
	if q.items[it.pod.UID] != it {
		return // deleted while in hand
	}
	it.waits, it.place = waits, inParked
	it.readyAt = q.clock.Now().Add(backoffAfter(it.attempts))
	q.parked[it.pod.UID] = it
}

// retry queues a pod in hand again after its back-off.
func (q *queue) retry(it *item) {
	if q.items[it.pod.UID] != it {
		return
	}
	it.readyAt = q.clock.Now().Add(backoffAfter(it.attempts))
	q.delay(it)
}

// hurry has a pod tried at once, whatever it waits for.
func (q *queue) hurry(uid types.UID) {
	if it, ok := q.items[uid]; ok && (it.place == inParked || it.place == inBackoff) {
		q.take(it)
		q.activate(it)
	}
}

// retell has a pod tried again after its back-off, and told what comes of it even
// if that is nothing new.
func (q *queue) retell(uid types.UID) {
	if it, ok := q.items[uid]; ok {
		it.reported = outcome{}
		q.rouse(uid)
	}
}

// rouse has a parked pod tried again after its back-off.
func (q *queue) rouse(uid types.UID) {
	if it, ok := q.parked[uid]; ok {
		q.take(it)
		q.delay(it)
	}
}

// changed notes that something happened which parked pods may wait for.
func (q *queue) changed(c placement.Change) {
	q.happened |= c
	if len(q.parked) > 0 {
		q.wake()
	}
}

// wakeParked shows the parked what happened since the last time. Changes are
// gathered, so a thousand deletions cost one pass.
func (q *queue) wakeParked() {
	if q.happened == 0 {
		return
	}
	for uid, it := range q.parked {
		if it.waits&q.happened != 0 {
			delete(q.parked, uid)
			q.delay(it)
		}
	}
	q.happened = 0
}

// ripen activates those whose back-off is over.
func (q *queue) ripen() {
	now := q.clock.Now()
	for q.backoff.Len() > 0 && !q.backoff.items[0].readyAt.After(now) {
		it := q.backoff.items[0]
		q.take(it)
		q.activate(it)
	}
}

func (q *queue) activate(it *item) {
	it.place = inActive
	heap.Push(&q.active, it)
	q.wake()
}

func (q *queue) delay(it *item) {
	if !it.readyAt.After(q.clock.Now()) {
		q.activate(it)
		return
	}
	it.place = inBackoff
	heap.Push(&q.backoff, it)
	if q.backoff.items[0] == it {
		q.setAlarm(it.readyAt)
	}
}

// setAlarm wakes the owner when the first back-off is over. An alarm that rings
// for nobody is harmless.
func (q *queue) setAlarm(at time.Time) {
	if q.alarm != nil {
		q.alarm.Stop()
	}
	q.alarm = q.clock.AfterFunc(at.Sub(q.clock.Now()), q.wake)
}

// take removes an item from wherever it is kept.
func (q *queue) take(it *item) {
	switch it.place {
	case inActive:
		heap.Remove(&q.active, it.index)
	case inBackoff:
		heap.Remove(&q.backoff, it.index)
		if q.backoff.Len() > 0 {
			q.setAlarm(q.backoff.items[0].readyAt)
		}
	case inParked:
		delete(q.parked, it.pod.UID)
	case inHand:
	}
	it.place = inHand
}

func backoffAfter(attempts int) time.Duration {
	wait := firstBackoff
	for range attempts - 1 {
		if wait *= 2; wait >= longestBackoff {
			return longestBackoff
		}
	}
	return wait
}

// itemHeap is a container/heap of items.
type itemHeap struct {
	items []*item
	less  func(a, b *item) bool
}

func (h *itemHeap) Len() int           { return len(h.items) }
func (h *itemHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *itemHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = i, j
}
func (h *itemHeap) Push(x any) {
	it := x.(*item)
	it.index = len(h.items)
	h.items = append(h.items, it)
}
func (h *itemHeap) Pop() any {
	last := len(h.items) - 1
	it := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return it
}
