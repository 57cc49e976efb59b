package services

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// watchHosts has the services done anew that a host which fails or comes back
// has endpoints of.
func (c *Controller) watchHosts(ctx context.Context) {
	var changed <-chan struct{}
	if c.o.Members != nil {
		changed = c.o.Members.Changed()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.look:
		case _, open := <-changed:
			if !open {
				changed = nil
			}
		}
		c.lookAtHosts()
	}
}

// nodeMatters leaves out what Nodes say of themselves all the time.
func nodeMatters(old, obj any) bool {
	before, ok1 := old.(*corev1.Node)
	after, ok2 := obj.(*corev1.Node)
	return !ok1 || !ok2 || calledFailed(before) != calledFailed(after) ||
		!slices.Equal(before.Status.Addresses, after.Status.Addresses) ||
		before.Labels[corev1.LabelTopologyZone] != after.Labels[corev1.LabelTopologyZone]
}

func (c *Controller) lookAgain() {
	select {
	case c.look <- struct{}{}:
	default: // it will look already
	}
}

func (c *Controller) lookAtHosts() {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		c.log.Warn("list nodes", "error", err)
		return
	}
	c.setHosts(nodes)
	if c.setZone(zoneOf(nodes, c.o.Node)) {
		for _, obj := range c.slices.List() {
			c.again(obj, func(ep discoveryv1.Endpoint) bool { return ep.Hints != nil })
		}
	}
	if c.o.Members == nil {
		return
	}
	turned := map[string]bool{}
	for _, name := range c.live.update(c.o.Members.Alive(), nodes) {
		turned[name] = true
		c.log.Info("endpoints follow their host", "host", name, "failed", c.live.Failed(name))
	}
	if len(turned) == 0 {
		return
	}
	for _, obj := range c.slices.List() {
		c.again(obj, func(ep discoveryv1.Endpoint) bool { return ep.NodeName != nil && turned[*ep.NodeName] })
	}
}

// again has a slice's service done anew when one of its endpoints is concerned.
func (c *Controller) again(obj any, concerned func(discoveryv1.Endpoint) bool) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	for _, ep := range slice.Endpoints {
		if !concerned(ep) {
			continue
		}
		if keys, err := sliceService(slice); err == nil && len(keys) > 0 {
			c.queue.Add(keys[0])
		}
		return
	}
}

func (c *Controller) place() Place {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Place{Node: c.o.Node, Zone: c.zone, Failed: c.live.Failed}
}

func (c *Controller) setZone(zone string) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed = c.zone != zone
	c.zone = zone
	return changed
}

func zoneOf(nodes []*corev1.Node, name string) string {
	for _, n := range nodes {
		if n.Name == name {
			return n.Labels[corev1.LabelTopologyZone]
		}
	}
	return ""
}
