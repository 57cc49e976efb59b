package devices

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// Admit gives every container of a pod the devices it asks for, or says in the
// kubelet's words why not, and then the pod holds none. What it holds already is
// kept. Devices of an init container are used again by those after it.
func (p *Plugins) Admit(ctx context.Context, pod *v1.Pod) error {
	if !p.asksForMore(pod) {
		return nil
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	p.forgetEnded(pod.UID)
	before := p.Holds(pod.UID)
	if err := p.admit(ctx, pod); err != nil {
		if !before {
			p.Drop(pod.UID)
		}
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.save(); err != nil {
		delete(p.held, string(pod.UID))
		return fmt.Errorf("note the devices: %w", err)
	}
	return nil
}

// Drop frees what a pod holds that is not going to run.
func (p *Plugins) Drop(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.held, string(uid))
}

func (p *Plugins) admit(ctx context.Context, pod *v1.Pod) error {
	reuse := map[string]sets.Set[string]{}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if err := p.give(ctx, pod, c, reuse); err != nil {
			return err
		}
		p.note(pod, c, func(name string, ids sets.Set[string]) {
			if podutil.IsRestartableInitContainer(c) {
				reuse[name] = reuse[name].Difference(ids)
			} else {
				reuse[name] = reuse[name].Union(ids)
			}
		})
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if err := p.give(ctx, pod, c, reuse); err != nil {
			return err
		}
		p.note(pod, c, func(name string, ids sets.Set[string]) { reuse[name] = reuse[name].Difference(ids) })
	}
	return nil
}

// note calls do with what a container holds.
func (p *Plugins) note(pod *v1.Pod, c *v1.Container, do func(resource string, ids sets.Set[string])) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, what := range p.held[string(pod.UID)][c.Name] {
		do(name, what.ids)
	}
}

// asksForMore reports whether a container of the pod asks for a plugin's
// resource that it does not hold.
func (p *Plugins) asksForMore(pod *v1.Pod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.resources) == 0 {
		return false
	}
	asks := func(c v1.Container) bool {
		for name, q := range c.Resources.Limits {
			held, ok := p.held[string(pod.UID)][c.Name][string(name)]
			if !q.IsZero() && p.serves(string(name)) && (!ok || int64(held.ids.Len()) != q.Value()) && !byClaim(pod, c.Name, name) {
				return true
			}
		}
		return false
	}
	return slices.ContainsFunc(pod.Spec.InitContainers, asks) || slices.ContainsFunc(pod.Spec.Containers, asks)
}

// byClaim reports whether a claim (KEP-5004) stands for the container's resource.
func byClaim(pod *v1.Pod, container string, name v1.ResourceName) bool {
	claim := pod.Status.ExtendedResourceClaimStatus
	return claim != nil && slices.ContainsFunc(claim.RequestMappings, func(m v1.ContainerExtendedResourceRequest) bool {
		return m.ContainerName == container && m.ResourceName == string(name)
	})
}

// forgetEnded frees what pods hold that use it no more.
func (p *Plugins) forgetEnded(but types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid := range p.held {
		if types.UID(uid) != but && !p.o.Uses(types.UID(uid)) {
			delete(p.held, uid)
		}
	}
}

// give has one container hold what it asks for.
func (p *Plugins) give(ctx context.Context, pod *v1.Pod, c *v1.Container, reuse map[string]sets.Set[string]) error {
	for _, name := range names(c) {
		q := c.Resources.Limits[name]
		if q.IsZero() || byClaim(pod, c.Name, name) {
			continue
		}
		ids, from, err := p.choose(ctx, pod, c, string(name), int(q.Value()), reuse[string(name)])
		if err != nil {
			return err
		}
		if ids == nil {
			continue
		}
		answer, err := from.allocate(ctx, ids)
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.held.put(string(pod.UID), c.Name, string(name), holding{ids: ids, answer: answer})
		p.mu.Unlock()
	}
	return nil
}

// choose picks devices and says whose they are; none when the container holds
// them already, or the resource is no plugin's. The rules are those of the
// kubelet's devicesToAllocate, less the alignment with NUMA nodes.
func (p *Plugins) choose(ctx context.Context, pod *v1.Pod, c *v1.Container, name string, asked int, reuse sets.Set[string]) (sets.Set[string], *plugin, error) {
	p.mu.Lock()
	if !p.serves(name) {
		p.mu.Unlock()
		return nil, nil, nil
	}
	if held, ok := p.held[string(pod.UID)][c.Name][name]; ok {
		p.mu.Unlock()
		if held.ids.Len() != asked {
			return nil, nil, fmt.Errorf("pod %q container %q changed request for resource %q from %d to %d", pod.UID, c.Name, name, held.ids.Len(), asked)
		}
		return nil, nil, nil
	}
	o := p.resources[name]
	if o == nil {
		p.mu.Unlock()
		return nil, nil, fmt.Errorf("cannot allocate unregistered device %s", name)
	}
	healthy := o.healthy()
	free := healthy.Difference(p.held.byResource()[name])
	var from *plugin
	if len(o.plugins) > 0 {
		from = o.plugins[len(o.plugins)-1]
	}
	p.mu.Unlock()
	if from == nil || healthy.Len() == 0 {
		return nil, nil, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", name)
	}
	out := take(sets.New[string](), asked, reuse)
	if left := asked - out.Len(); free.Len() < left {
		return nil, nil, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", name, left, free.Len())
	}
	if out.Len() < asked && from.options.GetGetPreferredAllocationAvailable() {
		liked, err := from.prefers(ctx, free.Union(out), out, asked)
		if err != nil {
			return nil, nil, err
		}
		out = take(out, asked, liked.Intersection(free))
	}
	return take(out, asked, free), from, nil
}

// take adds devices of a set, in order, until there are enough.
func take(to sets.Set[string], enough int, of sets.Set[string]) sets.Set[string] {
	for _, id := range sets.List(of) {
		if to.Len() >= enough {
			break
		}
		to.Insert(id)
	}
	return to
}

func (one *plugin) allocate(ctx context.Context, ids sets.Set[string]) (*api.ContainerAllocateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	answer, err := one.client.Allocate(ctx, &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: sets.List(ids)}}})
	if err != nil {
		return nil, err
	}
	if len(answer.ContainerResponses) == 0 {
		return nil, fmt.Errorf("no containers return in allocation response %v", answer)
	}
	return answer.ContainerResponses[0], nil
}

func (one *plugin) prefers(ctx context.Context, free, must sets.Set[string], size int) (sets.Set[string], error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	answer, err := one.client.GetPreferredAllocation(ctx, &api.PreferredAllocationRequest{ContainerRequests: []*api.ContainerPreferredAllocationRequest{{
		AvailableDeviceIDs: sets.List(free), MustIncludeDeviceIDs: sets.List(must), AllocationSize: int32(size),
	}}})
	if err != nil {
		return nil, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", err)
	}
	if len(answer.ContainerResponses) == 0 {
		return sets.New[string](), nil
	}
	return sets.New(answer.ContainerResponses[0].DeviceIDs...), nil
}
