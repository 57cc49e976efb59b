package stats

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/cgroup"
)

// noTime leaves a sample without one: it is of the moment of the scrape.
var noTime time.Time

// Cadvisor is the kubelet's /metrics/cadvisor: the names and labels that
// dashboards are made of. The series of the containers have container, image
// and name; those of a pod's group have pod and namespace alone, and carry the
// network; those of the host and the classes of pods have id alone.
func (r *Reader) Cadvisor(ctx context.Context) []byte {
	w := &cadvisor{}
	var all []series
	classes := []string{"/", r.o.Cgroups.Root(), r.o.Cgroups.QOSPath(v1.PodQOSBurstable), r.o.Cgroups.QOSPath(v1.PodQOSBestEffort)}
	for i, path := range classes {
		g, ok := r.readGroup(path, true)
		if !ok || i > 0 && path == "/" {
			continue
		}
		s := series{group: g, labels: labelsOf("", path, "", "", "", "")}
		if path == "/" {
			s.began, s.net = bootTime(), interfaces(0)
			s.fs, _ = statFS(r.o.DataDir)
			s.used, s.hasFS = s.fs.capacity-min(s.fs.available, s.fs.capacity), true
			s.limits.MemoryBytes = 0
		}
		all = append(all, s)
	}
	kept := map[string]bool{}
	for _, pod := range r.o.Pods() {
		all = append(all, r.podSeries(ctx, pod)...)
		for _, c := range pod.Containers {
			kept[c.ID] = true
		}
	}
	r.sizes.keep(kept)
	w.write(all)
	w.machine()
	return w.buf
}

// series is all that is told of one group.
type series struct {
	group
	labels    string
	container bool
	began     time.Time
	limits    cgroup.Limits
	net       []netInterface
	fs        fileSystem
	used      uint64
	hasFS     bool
	proc      *processes
}

func labelsOf(container, id, image, name, namespace, pod string) string {
	return labels("container", container, "id", id, "image", image, "name", name, "namespace", namespace, "pod", pod)
}

func (r *Reader) podSeries(ctx context.Context, pod Pod) []series {
	var out []series
	if g, ok := r.readGroup(r.podGroup(pod), true); ok {
		s := series{group: g, labels: labelsOf("", g.path, "", "", pod.Namespace, pod.Name)}
		if t := pod.Status.StartTime; t != nil {
			s.began = t.Time
		}
		s.limits.MemoryBytes = int64(g.memory.Limit)
		if !pod.Spec.HostNetwork && len(pod.Containers) > 0 {
			s.net = interfaces(pod.Containers[0].PID)
		}
		out = append(out, s)
	}
	for _, c := range pod.Containers {
		g, ok := r.readGroup(r.containerGroup(pod, c), true)
		if !ok {
			continue
		}
		s := series{
			group: g, container: true, began: c.StartedAt, proc: r.processes(g.path),
			labels: labelsOf(c.Name, g.path, c.Image, c.ID, pod.Namespace, pod.Name),
		}
		if spec := specOf(pod.Pod, c.Name); spec != nil {
			s.limits = cgroup.ForContainer(pod.Pod, spec)
		}
		if z, ok := r.sizes.of(r.upperOf(ctx, c.ID)); ok {
			s.fs, s.hasFS = statFS(r.o.DataDir)
			s.used = z.bytes
		}
		out = append(out, s)
	}
	return out
}
