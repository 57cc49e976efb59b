package placement

import (
	"sort"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// A pod that asks for nothing still uses something: for scoring only it counts
// as much as the upstream scheduler assumes, so that such pods spread.
const (
	assumedMilliCPU    = 100
	assumedMemoryBytes = 200 << 20
)

// amounts holds what nearly every pod and node states: milli CPUs, bytes of
// memory, bytes of ephemeral storage.
type amounts struct {
	milliCPU, memoryBytes, ephemeralBytes int64
}

// extended is a request for, or a stock of, any other resource.
type extended struct {
	name   v1.ResourceName
	amount int64
}

// demand is what a pod takes from the node it runs on.
type demand struct {
	amounts
	scoreMilliCPU, scoreMemoryBytes int64
	extended                        []extended // sorted by name
	ports                           []hostPort // sorted
}

func demandOf(pod *v1.Pod) demand {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	var d demand
	d.amounts, d.extended = splitResources(requests)
	d.scoreMilliCPU, d.scoreMemoryBytes = d.milliCPU, d.memoryBytes
	if d.milliCPU == 0 {
		d.scoreMilliCPU = assumedMilliCPU * int64(len(pod.Spec.Containers))
	}
	if d.memoryBytes == 0 {
		d.scoreMemoryBytes = assumedMemoryBytes * int64(len(pod.Spec.Containers))
	}
	d.ports = hostPortsOf(pod)
	return d
}

// splitResources sorts a resource list into the common amounts and the rest.
// The pod count is a node's limit, not a request, and is left to the caller.
func splitResources(list v1.ResourceList) (amounts, []extended) {
	var common amounts
	var rest []extended
	for name, quantity := range list {
		switch name {
		case v1.ResourceCPU:
			common.milliCPU = quantity.MilliValue()
		case v1.ResourceMemory:
			common.memoryBytes = quantity.Value()
		case v1.ResourceEphemeralStorage:
			common.ephemeralBytes = quantity.Value()
		case v1.ResourcePods:
		default:
			rest = appendExtended(rest, name, quantity)
		}
	}
	sort.Slice(rest, func(i, j int) bool { return rest[i].name < rest[j].name })
	return common, rest
}

func appendExtended(list []extended, name v1.ResourceName, quantity resource.Quantity) []extended {
	if amount := quantity.Value(); amount != 0 {
		return append(list, extended{name, amount})
	}
	return list
}

// row is the part of a node that every placement reads; it is kept apart from
// the rest of the node so that a scan walks straight through memory.
type row struct {
	allocatable amounts
	requested   amounts
	// scored is requested with the assumed minimum for pods that state nothing.
	scoredMilliCPU, scoredMemoryBytes int64
	pods, maxPods                     int32
}

// fits is the resource filter's quick answer; shortages names what is missing.
func (r *row) fits(d *demand) bool {
	return r.pods < r.maxPods &&
		enough(d.milliCPU, r.allocatable.milliCPU, r.requested.milliCPU) &&
		enough(d.memoryBytes, r.allocatable.memoryBytes, r.requested.memoryBytes) &&
		enough(d.ephemeralBytes, r.allocatable.ephemeralBytes, r.requested.ephemeralBytes)
}

// enough is true for a request of nothing even on an overcommitted node.
func enough(want, allocatable, requested int64) bool {
	return want == 0 || want <= allocatable-requested
}

// couldHold tells whether the node would have room for it if it were empty.
func (r *row) couldHold(d *demand) bool {
	return d.milliCPU <= r.allocatable.milliCPU && d.memoryBytes <= r.allocatable.memoryBytes && d.ephemeralBytes <= r.allocatable.ephemeralBytes
}

func (r *row) add(d *demand, sign int64) {
	r.requested.milliCPU += sign * d.milliCPU
	r.requested.memoryBytes += sign * d.memoryBytes
	r.requested.ephemeralBytes += sign * d.ephemeralBytes
	r.scoredMilliCPU += sign * d.scoreMilliCPU
	r.scoredMemoryBytes += sign * d.scoreMemoryBytes
	r.pods += int32(sign)
}

func (r *row) shortages(d *demand, reasons []string) []string {
	if r.pods >= r.maxPods {
		reasons = append(reasons, "Too many pods")
	}
	if !enough(d.milliCPU, r.allocatable.milliCPU, r.requested.milliCPU) {
		reasons = append(reasons, "Insufficient cpu")
	}
	if !enough(d.memoryBytes, r.allocatable.memoryBytes, r.requested.memoryBytes) {
		reasons = append(reasons, "Insufficient memory")
	}
	if !enough(d.ephemeralBytes, r.allocatable.ephemeralBytes, r.requested.ephemeralBytes) {
		reasons = append(reasons, "Insufficient ephemeral-storage")
	}
	return reasons
}

// stock counts a node's extended resources.
type stock struct{ allocatable, requested map[v1.ResourceName]int64 }

func (s *stock) fits(wanted []extended) bool {
	for _, e := range wanted {
		if !enough(e.amount, s.allocatable[e.name], s.requested[e.name]) {
			return false
		}
	}
	return true
}

func (s *stock) couldHold(wanted []extended) bool {
	for _, e := range wanted {
		if e.amount > s.allocatable[e.name] {
			return false
		}
	}
	return true
}

func (s *stock) add(wanted []extended, sign int64) {
	for _, e := range wanted {
		if s.requested == nil {
			s.requested = map[v1.ResourceName]int64{}
		}
		if s.requested[e.name] += sign * e.amount; s.requested[e.name] == 0 {
			delete(s.requested, e.name)
		}
	}
}

func (s *stock) shortages(wanted []extended, reasons []string) []string {
	for _, e := range wanted {
		if !enough(e.amount, s.allocatable[e.name], s.requested[e.name]) {
			reasons = append(reasons, "Insufficient "+string(e.name))
		}
	}
	return reasons
}
