package services

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// Members is what gossip knows of the cell's hosts, by node name.
type Members interface {
	// Alive returns the hosts believed alive, this one included.
	Alive() map[string]bool
	// Changed delivers after that has changed. It belongs to one receiver and
	// may be closed when there is nothing more to tell.
	Changed() <-chan struct{}
}

// maxMet bounds what is remembered of hosts; Kubernetes supports 5,000 nodes.
const maxMet = 16_384

// The reasons of the Ready condition that a peer writes about a failed host.
const (
	reasonUnknown = "NodeStatusUnknown"
	reasonLeft    = "NodeLeft"
)

// liveness says on which hosts nothing answers. Gossip decides: a host that was
// alive and is not any more has failed. Of one that was never met since this
// daemon started, its Node tells; a peer that has met nobody yet believes nothing.
type liveness struct {
	mu     sync.Mutex // guards all below
	met    map[string]bool
	failed map[string]bool
}

func newLiveness() *liveness {
	return &liveness{met: map[string]bool{}, failed: map[string]bool{}}
}

// Failed is for Place.
func (l *liveness) Failed(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed[node]
}

// update returns the hosts that have failed or come back, in order.
func (l *liveness) update(alive map[string]bool, nodes []*corev1.Node) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := map[string]bool{}
	for name := range l.met {
		if !alive[name] {
			next[name] = true
		}
	}
	for _, n := range nodes {
		if !alive[n.Name] && calledFailed(n) {
			next[n.Name] = true
		}
	}
	for name := range alive {
		l.met[name] = true
	}
	l.forget(alive, nodes)
	var changed []string
	for name := range next {
		if !l.failed[name] {
			changed = append(changed, name)
		}
	}
	for name := range l.failed {
		if !next[name] {
			changed = append(changed, name)
		}
	}
	l.failed = next
	slices.Sort(changed)
	return changed
}

// forget keeps met within its limit: hosts go that are neither alive nor nodes.
// Pods that are still listed there are collected with the Node.
func (l *liveness) forget(alive map[string]bool, nodes []*corev1.Node) {
	if len(l.met) <= maxMet {
		return
	}
	known := map[string]bool{}
	for _, n := range nodes {
		known[n.Name] = true
	}
	for name := range l.met {
		if !alive[name] && !known[name] {
			delete(l.met, name)
		}
	}
}

func calledFailed(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionUnknown && c.Reason == reasonUnknown ||
				c.Status == corev1.ConditionFalse && c.Reason == reasonLeft
		}
	}
	return false
}
