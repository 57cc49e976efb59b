package devices

import (
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/util/sets"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	checkpointerrors "k8s.io/kubernetes/pkg/kubelet/checkpointmanager/errors"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/checkpoint"
)

// checkpointName is the kubelet's name of the file.
const checkpointName = "kubelet_internal_checkpoint"

// withoutNUMA is the checkpoint's node of devices that have none.
const withoutNUMA = -1

// heldByPod is what pods hold: by UID, container and resource.
type heldByPod map[string]map[string]map[string]holding

// holding are devices and what their plugin said a container needs for them.
type holding struct {
	ids    sets.Set[string]
	answer *api.ContainerAllocateResponse
}

func (h heldByPod) put(uid, container, resource string, what holding) {
	if h[uid] == nil {
		h[uid] = map[string]map[string]holding{}
	}
	if h[uid][container] == nil {
		h[uid][container] = map[string]holding{}
	}
	h[uid][container][resource] = what
}

// byResource are all devices that are held.
func (h heldByPod) byResource() map[string]sets.Set[string] {
	out := map[string]sets.Set[string]{}
	h.each(func(_, _, resource string, what holding) {
		if out[resource] == nil {
			out[resource] = sets.New[string]()
		}
		out[resource].Insert(what.ids.UnsortedList()...)
	})
	return out
}

func (h heldByPod) any(resource string) (found bool) {
	h.each(func(_, _, name string, _ holding) { found = found || name == resource })
	return found
}

// users are the pods that hold one of some devices of a resource.
func (h heldByPod) users(resource string, ids sets.Set[string]) sets.Set[string] {
	out := sets.New[string]()
	if ids.Len() == 0 {
		return out
	}
	h.each(func(uid, _, name string, what holding) {
		if name == resource && what.ids.HasAny(ids.UnsortedList()...) {
			out.Insert(uid)
		}
	})
	return out
}

func (h heldByPod) each(do func(uid, container, resource string, what holding)) {
	for uid, containers := range h {
		for container, resources := range containers {
			for resource, what := range resources {
				do(uid, container, resource, what)
			}
		}
	}
}

// save writes what is held and which resources there were. It is called with mu
// held.
func (p *Plugins) save() error {
	var entries []checkpoint.PodDevicesEntry
	var errs []error
	p.held.each(func(uid, container, resource string, what holding) {
		answer, err := proto.Marshal(what.answer)
		errs = append(errs, err)
		entries = append(entries, checkpoint.PodDevicesEntry{
			PodUID: uid, ContainerName: container, ResourceName: resource,
			DeviceIDs: checkpoint.DevicesPerNUMA{withoutNUMA: sets.List(what.ids)}, AllocResp: answer,
		})
	})
	registered := map[string][]string{}
	for name, o := range p.resources {
		registered[name] = sets.List(o.healthy())
	}
	errs = append(errs, p.disk.CreateCheckpoint(checkpointName, checkpoint.New(entries, registered)))
	return errors.Join(errs...)
}

// load reads what save wrote. A file that cannot be read is no reason not to
// run pods: those that run keep their devices, and are not known to.
func (p *Plugins) load() {
	data := checkpoint.New(nil, map[string][]string{})
	err := p.disk.GetCheckpoint(checkpointName, data)
	if errors.Is(err, checkpointerrors.ErrCheckpointNotFound) {
		return
	}
	if err != nil {
		p.o.Logger.Error("which pods hold which devices could not be read; a device may be given out twice until its pod ends", "directory", p.o.DataDir, "error", err)
		return
	}
	entries, registered := data.GetData()
	for _, e := range entries {
		answer := &api.ContainerAllocateResponse{}
		if err := proto.Unmarshal(e.AllocResp, answer); err != nil {
			p.o.Logger.Error("the devices of a container could not be read", "pod", e.PodUID, "container", e.ContainerName, "resource", e.ResourceName, "error", err)
			continue
		}
		p.held.put(e.PodUID, e.ContainerName, e.ResourceName, holding{ids: e.DeviceIDs.Devices(), answer: answer})
	}
	// Nothing is healthy before its plugin registers again.
	for name := range registered {
		p.resources[name] = &offer{gone: time.Now()}
	}
}
