package runner

import (
	"context"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/containers"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/cgroup"
	"shoal/agent/oci"
	"shoal/agent/secretspec"
)

func (w *worker) spec(ctx context.Context, pod *v1.Pod, s *slot, record *containers.Container, env []oci.EnvVar, mounts []specs.Mount, hidden *secretspec.Hidden) (*specs.Spec, error) {
	class := QOSClass(pod)
	ns := oci.Namespaces{Net: w.box.netns, IPC: w.r.pins.path(string(pod.UID), "ipc")}
	if !pod.Spec.HostNetwork {
		ns.UTS = w.r.pins.path(string(pod.UID), "uts")
	}
	if pod.Spec.HostIPC {
		ns.IPC = ""
	}
	var err error
	if ns.PID, err = w.processes(pod, s); err != nil {
		return nil, err
	}
	user := oci.UserString(pod, s.spec, s.image.Config.User)
	known := w.r.users.get(s.image.ChainID, user)
	in := oci.Input{
		Record: record, Pod: pod, Container: s.spec, Image: s.image.Config,
		Env: env, Mounts: mounts, Namespaces: ns,
		CgroupPath: filepath.Join(w.r.Cgroups.PodPath(class, string(pod.UID)), record.ID),
		Limits:     cgroup.ForContainer(pod, s.spec),
		Host:       w.r.host,
		OOMScore:   w.r.oom.forContainer(pod, s.spec, hostMemory()),
		User:       known,
		Hide:       hidden.Hide,
	}
	spec, err := oci.Build(ctx, w.r.Client, in)
	if err != nil {
		return nil, err
	}
	if err := w.addBlockDevices(pod, s.spec, spec); err != nil {
		return nil, err
	}
	if known == nil {
		w.r.users.put(s.image.ChainID, user, spec.Process.User)
	}
	for _, g := range groups(pod) {
		spec.Process.User.AdditionalGids = append(spec.Process.User.AdditionalGids, uint32(g))
	}
	return spec, nil
}

// groups are the supplemental groups the pod adds to its users' own.
func groups(pod *v1.Pod) []int64 {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	out := append([]int64{}, sc.SupplementalGroups...)
	if sc.FSGroup != nil {
		out = append(out, *sc.FSGroup)
	}
	return out
}

func hostMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}
