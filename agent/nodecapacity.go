package agent

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper"

	"shoal/agent/reserve"
)

// resources are what this host has and what pods may ask for. Extended
// resources (KEP-1290's and those an administrator wrote into the Node's status)
// are kept from live, the Node as the API has it, but for those of device plugins.
func (n *node) resources(live *v1.Node) (capacity, allocatable v1.ResourceList) {
	capacity = reserve.Capacity(n.o.DataDir, MaxPods)
	if live != nil {
		for name, q := range live.Status.Capacity {
			if helper.IsExtendedResourceName(name) {
				capacity[name] = q
			}
		}
	}
	allocatable = n.o.Resources.plan.Allocatable(capacity)
	if n.devices != nil {
		all, healthy := n.devices()
		maps.Copy(capacity, all)
		maps.Copy(allocatable, healthy)
	}
	return capacity, allocatable
}

// note keeps the Node as the API has it, and reports whether the extended
// resources in it are those pods are admitted by.
func (n *node) note(live *v1.Node) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, allocatable := n.resources(live) // with mu held: what was counted earlier must not be kept later
	n.live = live
	same := true
	for name, q := range allocatable {
		if before, ok := n.alloc[name]; helper.IsExtendedResourceName(name) && (!ok || before.Cmp(q) != 0) {
			same = false
		}
	}
	for name := range n.alloc {
		if _, ok := allocatable[name]; !ok && helper.IsExtendedResourceName(name) {
			same = false
		}
	}
	n.alloc = allocatable
	return same
}

// self is this host's Node as admission sees it: the labels and taints the API
// last told, or those it begins with, and what may be asked for now.
func (n *node) self() *v1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	own := v1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.o.NodeName, Labels: n.labels()}}
	if n.live != nil {
		own = *n.live
	}
	own.Status.Allocatable = n.alloc
	return &own
}

// limitPods holds all pods together to what the host does not keep for itself.
// While they use more, the kernel refuses, and it is tried again with the next
// look at the node; eviction brings the use down meanwhile.
func (n *node) limitPods(capacity v1.ResourceList) {
	if n.o.KeepCgroupRoot && len(n.o.Resources.plan.Reserved) == 0 {
		return // it is somebody else's group, with limits of theirs
	}
	limits := n.o.Resources.plan.Group(capacity)
	now := [3]int64{int64(limits.CPUShares), limits.MemoryBytes, limits.PIDs}
	if n.limited == now {
		return
	}
	if err := n.groups.SetRoot(limits); err != nil {
		n.o.Logger.Warn("pods are not yet held to the node's allocatable resources, will retry", "error", err)
		return
	}
	n.limited = now
}
