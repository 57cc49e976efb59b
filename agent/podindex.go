package agent

import (
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"shoal/agent/shutdown"
)

// podIndex is this host's pods as the API last told.
type podIndex struct {
	mu       sync.Mutex
	byUID    map[types.UID]*v1.Pod // guarded by mu
	byName   map[string]*v1.Pod    // "namespace/name"; guarded by mu
	admitted map[types.UID]bool    // guarded by mu
}

func newPodIndex() *podIndex {
	return &podIndex{byUID: map[types.UID]*v1.Pod{}, byName: map[string]*v1.Pod{}, admitted: map[types.UID]bool{}}
}

func (p *podIndex) put(pod *v1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byUID[pod.UID] = pod
	p.byName[pod.Namespace+"/"+pod.Name] = pod
}

func (p *podIndex) drop(pod *v1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byUID, pod.UID)
	delete(p.admitted, pod.UID)
	if now := p.byName[pod.Namespace+"/"+pod.Name]; now != nil && now.UID == pod.UID {
		delete(p.byName, pod.Namespace+"/"+pod.Name)
	}
}

func (p *podIndex) get(namespace, name string) *v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byName[namespace+"/"+name]
}

func (p *podIndex) list() []*v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*v1.Pod, 0, len(p.byUID))
	for _, pod := range p.byUID {
		out = append(out, pod)
	}
	return out
}

// admittedPods is called with mu held.
func (p *podIndex) admittedPods() []*v1.Pod {
	out := make([]*v1.Pod, 0, len(p.byUID))
	for uid, pod := range p.byUID {
		// A start time is an earlier daemon's admission.
		if p.admitted[uid] || pod.Status.StartTime != nil {
			out = append(out, pod)
		}
	}
	return out
}

// admit is the host's own last word on whether a pod fits: the scheduler
// placed it on what it knew then. Pods are admitted one by one; one that has
// not been admitted yet takes nothing from those before it.
func (a *Agent) admit(pod *v1.Pod) (reason, message string) {
	if reason, message = a.security.refuse(pod); reason != "" {
		return reason, message
	}
	if a.shutdown.Closing() {
		return shutdown.RejectReason, shutdown.RejectMessage
	}
	a.pods.mu.Lock()
	defer a.pods.mu.Unlock()
	others := a.pods.admittedPods()
	reason, message = fits(pod, others, a.node.allocatable())
	if reason == "" {
		a.pods.admitted[pod.UID] = true
	}
	return reason, message
}
