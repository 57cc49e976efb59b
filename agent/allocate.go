package agent

import (
	"cmp"
	"context"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	helpers "k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"
	kubeletevents "k8s.io/kubernetes/pkg/kubelet/events"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"

	"shoal/agent/runner"
)

// resizeRetry is how often a resize that waits is looked at when nothing says
// that there may be room: the kubelet's.
const resizeRetry = 3 * time.Minute

// allocate gives a pod with the resources it was granted, and judges a resize
// (KEP-1287) that its specification asks for.
func (a *Agent) allocate(pod *v1.Pod) (*v1.Pod, *runner.Pending) {
	a.pods.mu.Lock()
	g := a.pods.grants[pod.UID]
	switch {
	case g == nil:
		a.pods.mu.Unlock()
		return pod, nil // not admitted yet
	case g.wish == pod:
		defer a.pods.mu.Unlock()
		return g.pod, g.pending
	case sameResources(g.pod, pod):
		defer a.pods.mu.Unlock()
		g.pod, g.wish, g.pending = pod, pod, nil
		return pod, nil
	}
	a.pods.mu.Unlock()
	if pod.DeletionTimestamp != nil || ended(pod) {
		return a.pods.hold(pod, nil)
	}
	return a.resize(pod)
}

// resize grants the resources pod asks for, or says why not.
func (a *Agent) resize(pod *v1.Pod) (*v1.Pod, *runner.Pending) {
	a.admitting.Lock()
	_, message := a.fits(pod, lifecycle.ResizeOperation)
	if message == "" {
		shrank := a.pods.regrant(pod)
		a.admitting.Unlock()
		a.Event(pod, v1.EventTypeNormal, kubeletevents.ResizeStarted, kubeletevents.PodResizeStartedMsg(klog.Background(), pod, pod.Generation))
		if shrank {
			a.roomMade()
		}
		return pod, nil
	}
	a.admitting.Unlock()
	// Nothing here makes a resize infeasible: what upstream refuses for good
	// (swap, static CPU and memory policies) does not exist on this host.
	p := &runner.Pending{Reason: v1.PodReasonDeferred, Message: message, Generation: pod.Generation}
	if before := a.pods.pending(pod.UID); before == nil || before.Generation != p.Generation {
		a.Event(pod, v1.EventTypeWarning, kubeletevents.ResizeDeferred, kubeletevents.PodResizePendingMsg(klog.Background(), pod, p.Reason, message, p.Generation))
	}
	return a.pods.hold(pod, p)
}

// hold keeps what the pod was granted beside everything else that it asks for.
func (p *podIndex) hold(pod *v1.Pod, pending *runner.Pending) (*v1.Pod, *runner.Pending) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.grants[pod.UID]
	if g == nil {
		return pod, nil
	}
	g.pod, g.wish, g.pending = withResources(pod, g.pod), pod, pending
	return g.pod, g.pending
}

// regrant gives the pod what it asks for, and reports whether it held more of
// something before.
func (p *podIndex) regrant(pod *v1.Pod) (shrank bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.grants[pod.UID]; g != nil {
		shrank = asksMore(g.pod, pod)
	}
	p.grants[pod.UID] = &grant{pod: pod, wish: pod}
	return shrank
}

func (p *podIndex) pending(uid types.UID) *runner.Pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.grants[uid]; g != nil {
		return g.pending
	}
	return nil
}

// roomMade has resizes that wait looked at.
func (a *Agent) roomMade() {
	select {
	case a.room <- struct{}{}:
	default:
	}
}

// retryResizes grants resizes that waited once there is room.
func (a *Agent) retryResizes(ctx context.Context) error {
	timer := time.NewTimer(resizeRetry)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.room:
		case <-timer.C:
		}
		timer.Reset(resizeRetry)
		for _, pod := range a.pods.waiting() {
			if _, pending := a.resize(pod); pending == nil {
				a.runner.Poke(pod.UID)
			}
		}
	}
}

// waiting are the pods whose resize waits, in the kubelet's order: those that
// ask for no more, then by priority, then by who asked first.
func (p *podIndex) waiting() []*v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*v1.Pod
	for uid, g := range p.grants {
		if pod := p.byUID[uid]; g.pending != nil && pod != nil && !ended(pod) && pod.DeletionTimestamp == nil {
			out = append(out, pod)
		}
	}
	grows := func(pod *v1.Pod) int {
		if asksMore(pod, p.grants[pod.UID].pod) {
			return 1
		}
		return 0
	}
	slices.SortFunc(out, func(x, y *v1.Pod) int {
		return cmp.Or(grows(x)-grows(y), cmp.Compare(priority(y), priority(x)), askedAt(x).Compare(askedAt(y)))
	})
	return out
}

func priority(pod *v1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

func askedAt(pod *v1.Pod) time.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodResizePending {
			return c.LastTransitionTime.Time
		}
	}
	return time.Now()
}

// asksMore reports whether a requests more of something than b.
func asksMore(a, b *v1.Pod) bool {
	of := helpers.PodRequests(b, helpers.PodResourcesOptions{})
	for name, q := range helpers.PodRequests(a, helpers.PodResourcesOptions{}) {
		if has := of[name]; q.Cmp(has) > 0 {
			return true
		}
	}
	return false
}

func sameResources(a, b *v1.Pod) bool {
	same := func(a, b []v1.Container) bool {
		return slices.EqualFunc(a, b, func(x, y v1.Container) bool {
			return x.Name == y.Name && equality.Semantic.DeepEqual(x.Resources, y.Resources)
		})
	}
	return same(a.Spec.Containers, b.Spec.Containers) && same(a.Spec.InitContainers, b.Spec.InitContainers) &&
		equality.Semantic.DeepEqual(a.Spec.Resources, b.Spec.Resources)
}

// withResources is pod with the resources of another object of the same pod.
func withResources(pod, of *v1.Pod) *v1.Pod {
	out := *pod
	replace := func(list, of []v1.Container) []v1.Container {
		list = slices.Clone(list)
		for i := range list {
			for j := range of {
				if of[j].Name == list[i].Name {
					list[i].Resources = of[j].Resources
				}
			}
		}
		return list
	}
	out.Spec.Containers = replace(pod.Spec.Containers, of.Spec.Containers)
	out.Spec.InitContainers = replace(pod.Spec.InitContainers, of.Spec.InitContainers)
	out.Spec.Resources = of.Spec.Resources
	return &out
}

// grantedBefore is what an earlier daemon granted, as it wrote into the pod's
// status. Limits are not kept apart there: those the containers have count, and
// a resize that was under way is judged again.
func grantedBefore(pod *v1.Pod) *v1.Pod {
	of := pod.DeepCopy()
	take := func(list []v1.Container, known []v1.ContainerStatus) {
		for i := range list {
			for j := range known {
				if s := &known[j]; s.Name == list[i].Name && s.Resources != nil {
					list[i].Resources.Requests, list[i].Resources.Limits = s.AllocatedResources, s.Resources.Limits
				}
			}
		}
	}
	take(of.Spec.Containers, pod.Status.ContainerStatuses)
	take(of.Spec.InitContainers, pod.Status.InitContainerStatuses)
	if of.Spec.Resources != nil && pod.Status.Resources != nil {
		of.Spec.Resources.Limits = keepNames(pod.Status.Resources.Limits, of.Spec.Resources.Limits)
		of.Spec.Resources.Requests = keepNames(pod.Status.AllocatedResources, of.Spec.Resources.Requests)
	}
	if sameResources(of, pod) {
		return pod
	}
	return of
}

// keepNames are the quantities of list that names has too.
func keepNames(list, names v1.ResourceList) v1.ResourceList {
	out := v1.ResourceList{}
	for name := range names {
		if q, ok := list[name]; ok {
			out[name] = q
		}
	}
	return out
}
