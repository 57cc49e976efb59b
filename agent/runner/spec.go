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
	if u := w.box.users; u != nil {
		ns.User, ns.FirstID = u.path, u.first
	}
	var err error
	if ns.PID, err = w.processes(pod, s); err != nil {
		return nil, err
	}
	if err := oci.CheckNonRoot(pod, s.spec, s.image.Config.User); err != nil {
		return nil, err
	}
	user, err := w.user(ctx, pod, s, record)
	if err != nil {
		return nil, err
	}
	in := oci.Input{
		Record: record, Pod: pod, Container: s.spec, Image: s.image.Config,
		Env: env, Mounts: mounts, Namespaces: ns,
		CgroupPath: filepath.Join(w.r.Cgroups.PodPath(class, string(pod.UID)), record.ID),
		Limits:     cgroup.ForContainer(pod, s.spec),
		Host:       w.r.host,
		OOMScore:   w.r.oom.forContainer(pod, s.spec, hostMemory()),
		User:       *user,
		Groups:     groups(pod),
		Security:   w.r.Security,
		Hide:       hidden.Hide,
	}
	spec, err := oci.Build(ctx, w.r.Client, in)
	if err != nil {
		return nil, err
	}
	if err := w.addBlockDevices(pod, s.spec, spec); err != nil {
		return nil, err
	}
	return spec, nil
}

// user is who the container runs as: finding out takes a look into its root
// file system, so what an image says is remembered.
func (w *worker) user(ctx context.Context, pod *v1.Pod, s *slot, record *containers.Container) (*specs.User, error) {
	want := oci.RequestUser(pod, s.spec, s.image.Config.User)
	if known := w.r.users.get(s.image.ChainID, want); known != nil {
		return known, nil
	}
	found, err := oci.FindUser(ctx, w.r.Client, record, want)
	if err == nil {
		w.r.users.put(s.image.ChainID, want, found)
	}
	return found, err
}

// groups are the supplemental groups the pod adds to its users' own.
func groups(pod *v1.Pod) []int64 {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	var out []int64
	if sc.FSGroup != nil {
		out = append(out, *sc.FSGroup)
	}
	return append(out, sc.SupplementalGroups...)
}

func hostMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}
