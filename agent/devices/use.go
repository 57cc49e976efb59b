package devices

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Use is what a container needs to use its devices. Nothing is there twice.
type Use struct {
	Env         []v1.EnvVar
	Mounts      []*api.Mount
	Devices     []*api.DeviceSpec
	Annotations map[string]string
	CDI         []string // fully qualified names, KIND=NAME
}

// For is what a container that is about to be made needs for its devices; nil
// if it has none. A plugin that wants to prepare them does so now.
func (p *Plugins) For(ctx context.Context, pod *v1.Pod, c *v1.Container) (*Use, error) {
	// The pod may have come before the plugin.
	if err := p.Admit(ctx, pod); err != nil {
		return nil, err
	}
	p.mu.Lock()
	held := maps.Clone(p.held[string(pod.UID)][c.Name])
	p.mu.Unlock()
	if len(held) == 0 {
		return nil, nil
	}
	use := &Use{Annotations: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(held)) {
		if err := p.prestart(ctx, name, held[name].ids); err != nil {
			return nil, err
		}
		use.add(held[name].answer)
	}
	return use, nil
}

// prestart has the plugin prepare devices, if it asked for that.
func (p *Plugins) prestart(ctx context.Context, name string, ids sets.Set[string]) error {
	p.mu.Lock()
	o := p.resources[name]
	var one *plugin
	if o != nil && len(o.plugins) > 0 {
		one = o.plugins[len(o.plugins)-1]
	}
	wanted := o != nil && o.prestart
	p.mu.Unlock()
	if !wanted {
		return nil
	}
	if one == nil {
		return fmt.Errorf("device plugin of %s is gone and has to prepare the devices first; the container starts once it registers again", name)
	}
	ctx, cancel := context.WithTimeout(ctx, api.KubeletPreStartContainerRPCTimeoutInSecs*time.Second)
	defer cancel()
	if _, err := one.client.PreStartContainer(ctx, &api.PreStartContainerRequest{DevicesIds: sets.List(ids)}); err != nil {
		return fmt.Errorf("device plugin PreStartContainer rpc failed with err: %w", err)
	}
	return nil
}

// add puts in what one resource needs. Where two disagree the first counts, as
// with the kubelet.
func (u *Use) add(from *api.ContainerAllocateResponse) {
	for _, name := range slices.Sorted(maps.Keys(from.Envs)) {
		if !slices.ContainsFunc(u.Env, func(e v1.EnvVar) bool { return e.Name == name }) {
			u.Env = append(u.Env, v1.EnvVar{Name: name, Value: from.Envs[name]})
		}
	}
	for _, m := range from.Mounts {
		if !slices.ContainsFunc(u.Mounts, func(have *api.Mount) bool { return have.ContainerPath == m.ContainerPath }) {
			u.Mounts = append(u.Mounts, m)
		}
	}
	for _, d := range from.Devices {
		if !slices.ContainsFunc(u.Devices, func(have *api.DeviceSpec) bool { return have.ContainerPath == d.ContainerPath }) {
			u.Devices = append(u.Devices, d)
		}
	}
	for name, value := range from.Annotations {
		if _, have := u.Annotations[name]; !have {
			u.Annotations[name] = value
		}
	}
	for _, d := range from.CdiDevices {
		if !slices.Contains(u.CDI, d.Name) {
			u.CDI = append(u.CDI, d.Name)
		}
	}
}
