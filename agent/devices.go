package agent

import (
	"context"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/kubelet/cm/admission"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	schedulerframework "k8s.io/kubernetes/pkg/scheduler/framework"

	"shoal/agent/devices"
	"shoal/agent/runner"
)

func (a *Agent) newDevices() (err error) {
	if a.o.DevicePluginDir == "" {
		return nil
	}
	a.devices, err = devices.New(devices.Options{
		Dir: a.o.DevicePluginDir, DataDir: filepath.Join(a.o.DataDir, "devices"),
		Uses: a.usesDevices, Changed: a.node.poke, Health: a.devicesChanged, Logger: a.log,
	})
	if err == nil {
		a.node.devices = a.devices.Capacity
	}
	return err
}

// containerDevices are the runner's way to the devices.
func (a *Agent) containerDevices() runner.Devices {
	if a.devices == nil {
		return nil // and not an interface with nothing in it
	}
	return a.devices
}

// usesDevices reports whether a pod may still use the devices it holds. Before
// all pods are known, each may.
func (a *Agent) usesDevices(uid types.UID) bool {
	if !a.synced.Load() {
		return true
	}
	return !a.runner.Released(uid) && !a.pods.over(uid)
}

// devicesChanged has a pod's status tell of its devices' health.
func (a *Agent) devicesChanged(uid types.UID) { a.runner.Poke(uid) }

// giveDevices has a pod hold the devices it asks for.
func (a *Agent) giveDevices(ctx context.Context, pod *v1.Pod) (reason, message string) {
	if a.devices == nil {
		return "", ""
	}
	r := admission.GetPodAdmitResult(a.devices.Admit(ctx, pod))
	return r.Reason, r.Message
}

// takeDevices frees the devices of a pod that is not going to run.
func (a *Agent) takeDevices(pod *v1.Pod) {
	if a.devices != nil {
		a.devices.Drop(pod.UID)
	}
}

// countDevices raises what may be asked for to what pods hold, so that one which
// holds its devices is not refused because others fail: the kubelet's
// sanitizeNodeAllocatable.
func (a *Agent) countDevices(node *schedulerframework.NodeInfo, attrs *lifecycle.PodAdmitAttributes) error {
	if a.devices == nil || !a.devices.Holds(attrs.Pod.UID) {
		return nil
	}
	allocatable := node.Allocatable.Clone()
	for name, held := range a.devices.Held() {
		if allocatable.ScalarResources[name] < held {
			allocatable.SetScalar(name, held)
		}
	}
	node.Allocatable = allocatable
	return nil
}
