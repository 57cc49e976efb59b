package devices

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Status is the health of what a container holds (KEP-4680); nil if nothing. A
// device whose plugin is not there was healthy when last heard of.
func (p *Plugins) Status(uid types.UID, container string) []v1.ResourceStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := p.held[string(uid)][container]
	var out []v1.ResourceStatus
	for _, name := range slices.Sorted(maps.Keys(held)) {
		status := v1.ResourceStatus{Name: v1.ResourceName(name), Resources: []v1.ResourceHealth{}}
		for _, id := range sets.List(held[name].ids) {
			health := v1.ResourceHealthStatusHealthy
			if o := p.resources[name]; o != nil && o.devices[id] != nil && o.devices[id].Health != api.Healthy {
				health = v1.ResourceHealthStatusUnhealthy
			}
			status.Resources = append(status.Resources, v1.ResourceHealth{ResourceID: v1.ResourceID(id), Health: health})
		}
		out = append(out, status)
	}
	return out
}
