package controllers

import (
	"sync"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pendingTimeout is how long a write of ours may stay unseen before the next
// pass stops waiting for it. Events arrive within milliseconds; only a write
// whose effect was undone before anyone looked never shows.
const pendingTimeout = 30 * time.Second

// pendingWrites remembers, per ReplicaSet, the pods it asked to be created or
// deleted and has not seen so yet. While there are any, its view is older than
// its own deeds and it must not act again.
type pendingWrites struct {
	mu   sync.Mutex
	sets map[types.UID]*pendingSet // guarded by mu
}

type pendingSet struct {
	creates map[string]struct{}    // names
	deletes map[types.UID]struct{} // pod uids
	since   time.Time
	floor   int // the first number not seen used yet
}

func newPendingWrites() *pendingWrites { return &pendingWrites{sets: map[types.UID]*pendingSet{}} }

func (p *pendingWrites) of(set types.UID) *pendingSet {
	s, ok := p.sets[set]
	if !ok {
		s = &pendingSet{creates: map[string]struct{}{}, deletes: map[types.UID]struct{}{}}
		p.sets[set] = s
	}
	return s
}

// know makes room for a ReplicaSet that exists.
func (p *pendingWrites) know(set types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of(set)
}

// expect notes what is about to be written.
func (p *pendingWrites) expect(set types.UID, todo plan, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.of(set)
	s.since = now
	for _, name := range todo.create {
		s.creates[name] = struct{}{}
	}
	for _, pod := range todo.remove {
		s.deletes[pod.UID] = struct{}{}
	}
}

// settled is true when everything written was seen, or will not be any more.
func (p *pendingWrites) settled(set types.UID, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.sets[set]
	if !ok || len(s.creates)+len(s.deletes) == 0 {
		return true
	}
	if now.Sub(s.since) < pendingTimeout {
		return false
	}
	clear(s.creates)
	clear(s.deletes)
	return true
}

// created ends the wait for a pod of that name: it was seen, or not made.
func (p *pendingWrites) created(set types.UID, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.sets[set]; ok {
		delete(s.creates, name)
	}
}

// deleted ends the wait for a pod to go: it was seen going, or is staying.
func (p *pendingWrites) deleted(set types.UID, pod types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.sets[set]; ok {
		delete(s.deletes, pod)
	}
}

// observe takes in an event about a pod. It raises the floor, so that the
// number of a pod that is gone is not given out again by this process.
func (p *pendingWrites) observe(pod *v1.Pod, gone bool) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s, known := p.sets[ref.UID]
	if !known { // gone itself, and its pods are following
		return
	}
	delete(s.creates, pod.Name)
	if gone || pod.DeletionTimestamp != nil {
		delete(s.deletes, pod.UID)
	}
	if ordinal, ok := podOrdinal(ref.Name, ref.UID, pod.Name); ok {
		s.floor = max(s.floor, ordinal+1)
	}
}

func (p *pendingWrites) floor(set types.UID) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.sets[set]; ok {
		return s.floor
	}
	return 0
}

// forget drops what is known about a ReplicaSet that is gone.
func (p *pendingWrites) forget(set types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sets, set)
}

// skip marks the number of a name as used up.
func (p *pendingWrites) skip(set *apps.ReplicaSet, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ordinal, ok := podOrdinal(set.Name, set.UID, name); ok {
		s := p.of(set.UID)
		s.floor = max(s.floor, ordinal+1)
	}
}
