// Package stats tells what this host, its pods and their containers use, in
// the forms the kubelet has for it: the summary (k8s.io/kubelet's
// stats/v1alpha1), the metrics of /metrics/resource and /metrics/cadvisor,
// and the readings behind metrics.k8s.io.
//
// Always true: it reads when it is asked and at no other time; what cannot be
// read is left out, so that one pod on its way out does not spoil the rest;
// what it remembers (readings a rate is made of, sizes of directories) is
// bounded by the containers there are.
//
// The agent's HTTP server calls it. It judges nothing and limits nothing.
package stats

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"

	"shoal/agent/cgroup"
)

// Container is one that runs.
type Container struct {
	Name      string
	ID        string
	Image     string
	PID       int
	StartedAt time.Time
}

// Pod is one of this host with its running containers.
type Pod struct {
	*v1.Pod
	Containers []Container
}

// Options say where to read. All are required.
type Options struct {
	NodeName string
	Cgroups  *cgroup.Tree
	Pods     func() []Pod
	// Upper is the directory that holds what a container wrote to its root
	// file system; empty when there is none.
	Upper func(ctx context.Context, containerID string) string
	// Volume is a volume's directory; empty when it is nobody's to measure.
	Volume func(pod *v1.Pod, volume *v1.Volume) string
	// Logs is the directory of a container's logs.
	Logs func(pod *v1.Pod, container string) string
	// Own are files and directories of a pod that its containers write to and that
	// are no volume's, such as their /etc/hosts.
	Own func(pod *v1.Pod) []string
	// DataDir is on the file system that pods write to.
	DataDir string
}

// Reader reads. Its methods may be called from any goroutine.
type Reader struct {
	o     Options
	rates rates
	sizes sizes
}

// New makes a Reader.
func New(o Options) *Reader {
	return &Reader{o: o, rates: rates{seen: map[string]*history{}}, sizes: sizes{known: map[string]size{}, upper: map[string]string{}}}
}

// group is one reading of a control group.
type group struct {
	path   string
	at     time.Time
	cpu    cgroup.CPU
	memory cgroup.Memory
	pids   cgroup.PIDs
	io     []cgroup.DeviceIO
}

// readGroup reads processor time and memory, and with all the rest too. ok is
// false for a group that is gone.
func (r *Reader) readGroup(path string, all bool) (g group, ok bool) {
	g = group{path: path, at: time.Now()}
	var err error
	if g.cpu, err = r.o.Cgroups.CPU(path); err != nil {
		return g, false
	}
	if g.memory, err = r.o.Cgroups.Memory(path); err != nil {
		return g, false
	}
	if all {
		// Not every host counts these, and the root nowhere.
		g.pids, _ = r.o.Cgroups.PIDs(path)
		g.io, _ = r.o.Cgroups.IO(path)
	}
	return g, true
}

func classOf(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	return qos.ComputePodQOS(pod)
}

// specOf is the container's part of the pod's specification, or nil.
func specOf(pod *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
