package controllers

import (
	"maps"
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
	known   *numbers // nil until the first look
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

// know makes room for a ReplicaSet that exists. Of one that nobody has reported
// on yet no pod can be gone, so gaps in its numbers are pods about to appear.
func (p *pendingWrites) know(set *apps.ReplicaSet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.of(set.UID); s.known == nil && set.Status.ObservedGeneration == 0 {
		s.known = &numbers{seen: map[int]bool{}}
	}
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

// observe takes in an event about a pod. Its number is remembered, so that this
// process does not give it out again when the pod is gone.
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
		s.use(ordinal)
	}
}

// numbers returns a copy of what is known about a ReplicaSet's numbers; owned
// are its pods in sight.
func (p *pendingWrites) numbers(set *apps.ReplicaSet, owned []*v1.Pod) numbers {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.of(set.UID)
	if s.known == nil {
		known := startAbove(set.Name, set.UID, owned)
		s.known = &known
	}
	return numbers{base: s.known.base, seen: maps.Clone(s.known.seen)}
}

// use notes a number, but not before the first look, which sees for itself.
func (s *pendingSet) use(ordinal int) {
	if s.known != nil {
		s.known.use(ordinal)
	}
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
		p.of(set.UID).use(ordinal)
	}
}
