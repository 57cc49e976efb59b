package agent

import (
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"shoal/agent/runner"
)

// podIndex is this host's pods as the API last told, and what each was given.
type podIndex struct {
	mu     sync.Mutex
	byUID  map[types.UID]*v1.Pod // guarded by mu
	byName map[string]*v1.Pod    // "namespace/name"; guarded by mu
	grants map[types.UID]*grant  // of pods that were admitted; guarded by mu
}

// grant is what a pod was given. Resources it asks for later (a resize) are not
// its own before they are granted too.
type grant struct {
	pod     *v1.Pod // with the resources it has
	wish    *v1.Pod // the object last judged
	pending *runner.Pending
}

func newPodIndex() *podIndex {
	return &podIndex{byUID: map[types.UID]*v1.Pod{}, byName: map[string]*v1.Pod{}, grants: map[types.UID]*grant{}}
}

func (p *podIndex) put(pod *v1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byUID[pod.UID] = pod
	p.byName[pod.Namespace+"/"+pod.Name] = pod
	if p.grants[pod.UID] == nil && pod.Status.StartTime != nil {
		// A start time is an earlier daemon's admission.
		p.grants[pod.UID] = &grant{pod: grantedBefore(pod)}
	}
}

func (p *podIndex) drop(pod *v1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byUID, pod.UID)
	delete(p.grants, pod.UID)
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

// grant notes that a pod was given what it asks for.
func (p *podIndex) grant(pod *v1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grants[pod.UID] = &grant{pod: pod, wish: pod}
}

// granted are the pods that hold resources, with those they hold, but one.
func (p *podIndex) granted(but types.UID) []*v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*v1.Pod, 0, len(p.grants))
	for uid, g := range p.grants {
		if pod := p.byUID[uid]; uid != but && pod != nil && !ended(pod) {
			out = append(out, g.pod)
		}
	}
	return out
}

// running are the pods that hold resources, as the API last told them.
func (p *podIndex) running() []*v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*v1.Pod, 0, len(p.grants))
	for uid := range p.grants {
		if pod := p.byUID[uid]; pod != nil && !ended(pod) {
			out = append(out, pod)
		}
	}
	return out
}

// over reports whether the API has heard that a pod ended, every container of it.
func (p *podIndex) over(uid types.UID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod := p.byUID[uid]
	return pod != nil && ended(pod) && !slices.ContainsFunc(pod.Status.ContainerStatuses, func(c v1.ContainerStatus) bool {
		return c.State.Running != nil
	})
}

func ended(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}
