// Package oci turns a pod's container and its image into the runtime
// specification runc starts.
//
// Always true: Build reads nothing but its input and the security profiles it
// names, FindUser nothing but the container's own root file system; what the
// pod asks for and this package cannot give is an error that names the field.
//
// The pod runner calls it. It makes no mounts, groups or namespaces.
package oci

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/cgroup"
	"shoal/agent/expand"
	"shoal/agent/userns"
)

// groupAnnotation makes the runc v2 shim serve all containers of one pod.
const groupAnnotation = "io.containerd.runc.v2.group"

// Input is everything a container's specification depends on.
type Input struct {
	Record     *containers.Container // id, snapshotter and snapshot key
	Pod        *v1.Pod
	Container  *v1.Container
	Image      ocispec.ImageConfig
	Env        []EnvVar // in order, later ones win
	Mounts     []specs.Mount
	Namespaces Namespaces
	CgroupPath string
	Limits     cgroup.Limits
	Host       Host
	OOMScore   int
	Groups     []int64    // supplemental groups that volumes and the pod add
	User       specs.User // as FindUser gives it
	Security   Security
	// Hide gives what stands in the specification for a string that must not
	// be in it. It is needed when Env has a secret.
	Hide func(string) string
}

// EnvVar is one environment variable. A secret one, and what is made from it,
// is not written into the specification.
type EnvVar struct {
	Name, Value string
	Secret      bool
}

// Namespaces are paths of the pod's namespaces; an empty path means the
// host's.
type Namespaces struct {
	Net, IPC, UTS string
	// PID is "" for one of the container's own, "host" for the host's, else
	// the path of another container's.
	PID string
	// User is "" for the host's; else FirstID is what id 0 in it is outside.
	User    string
	FirstID uint32
}

// HostPID is the value of Namespaces.PID that shares the host's.
const HostPID = "host"

// Build makes the specification.
func Build(ctx context.Context, client oci.Client, in Input) (*specs.Spec, error) {
	if in.Hide == nil && slices.ContainsFunc(in.Env, func(e EnvVar) bool { return e.Secret }) {
		return nil, errors.New("build container specification: the environment has secrets and nothing hides them")
	}
	opts := []oci.SpecOpts{
		withProcess(in),
		withNamespaces(in.Namespaces),
		withMounts(in),
		withResources(in),
	}
	security, err := withSecurity(in)
	if err != nil {
		return nil, err
	}
	opts = append(opts, security...)
	opts = append(opts, withUser(in))
	spec, err := oci.GenerateSpec(ctx, client, in.Record, opts...)
	if err != nil {
		return nil, fmt.Errorf("build container specification: %w", err)
	}
	return spec, nil
}

func withProcess(in Input) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		env := mergeEnv(in.Image.Env, in.Env, in.Hide)
		args, err := Args(in.Container, in.Image, in.Env, in.Hide)
		if err != nil {
			return err
		}
		s.Process.Args = args
		s.Process.Env = env
		s.Process.Terminal = in.Container.TTY
		// Limits are inherited from containerd: raising them back would
		// need a capability the daemon may lack.
		s.Process.Rlimits = nil
		s.Process.NoNewPrivileges = false
		s.Process.OOMScoreAdj = &in.OOMScore
		s.Process.Cwd = "/"
		if in.Image.WorkingDir != "" {
			s.Process.Cwd = in.Image.WorkingDir
		}
		if in.Container.WorkingDir != "" {
			s.Process.Cwd = in.Container.WorkingDir
		}
		s.Annotations = map[string]string{groupAnnotation: string(in.Pod.UID)}
		return nil
	}
}

// Args applies the pod's command and args over the image's entrypoint and
// command, with $(VAR) expanded. An argument with a secret in it is hidden. What
// exec(2) would not take, beside env, is an error that names it.
func Args(c *v1.Container, img ocispec.ImageConfig, env []EnvVar, hide func(string) string) ([]string, error) {
	var size expand.Size
	values := make(map[string]EnvVar, len(env))
	for _, e := range env {
		if err := size.Add(len(e.Name) + 1 + len(e.Value)); err != nil {
			return nil, fmt.Errorf("environment variable %s: %w", e.Name, err)
		}
		values[e.Name] = e
	}
	command, err := expandArgs("command", c.Command, &size, values, hide)
	if err != nil {
		return nil, err
	}
	args, err := expandArgs("args", c.Args, &size, values, hide)
	if err != nil {
		return nil, err
	}
	if len(command) == 0 {
		command = img.Entrypoint
		if len(args) == 0 {
			args = img.Cmd
		}
	}
	all := append(append([]string{}, command...), args...)
	if len(all) == 0 {
		return nil, fmt.Errorf("no command specified: image %s has none; set command in the container", c.Image)
	}
	return all, nil
}

func expandArgs(field string, in []string, size *expand.Size, values map[string]EnvVar, hide func(string) string) ([]string, error) {
	out := make([]string, len(in))
	for i, text := range in {
		secret := false
		arg, err := size.Expand(text, func(name string) (string, bool) {
			v, ok := values[name]
			secret = secret || v.Secret
			return v.Value, ok
		})
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		if secret {
			arg = hide(arg)
		}
		out[i] = arg
	}
	return out, nil
}

func mergeEnv(image []string, pod []EnvVar, hide func(string) string) []string {
	out := make([]string, 0, len(image)+len(pod)+1)
	at := map[string]int{}
	put := func(name, entry string) {
		if i, ok := at[name]; ok {
			out[i] = entry
			return
		}
		at[name] = len(out)
		out = append(out, entry)
	}
	put("PATH", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	for _, e := range image {
		name, value, _ := strings.Cut(e, "=")
		put(name, name+"="+value)
	}
	for _, e := range pod {
		entry := e.Name + "=" + e.Value
		if e.Secret {
			entry = hide(entry)
		}
		put(e.Name, entry)
	}
	return out
}

func withNamespaces(ns Namespaces) oci.SpecOpts {
	return func(ctx context.Context, c oci.Client, r *containers.Container, s *specs.Spec) error {
		for kind, path := range map[specs.LinuxNamespaceType]string{
			specs.NetworkNamespace: ns.Net,
			specs.IPCNamespace:     ns.IPC,
			specs.UTSNamespace:     ns.UTS,
		} {
			opt := oci.WithHostNamespace(kind)
			if path != "" {
				opt = oci.WithLinuxNamespace(specs.LinuxNamespace{Type: kind, Path: path})
			}
			if err := opt(ctx, c, r, s); err != nil {
				return err
			}
		}
		if ns.User != "" {
			ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: ns.FirstID, Size: userns.Length}}
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
			if err := oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.UserNamespace, Path: ns.User})(ctx, c, r, s); err != nil {
				return err
			}
		}
		switch ns.PID {
		case "":
			return nil
		case HostPID:
			return oci.WithHostNamespace(specs.PIDNamespace)(ctx, c, r, s)
		}
		return oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.PIDNamespace, Path: ns.PID})(ctx, c, r, s)
	}
}

// withMounts replaces defaults that the pod provides, drops containerd's
// private /run and orders parents before children.
func withMounts(in Input) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		mine := map[string]bool{"/run": true}
		for _, m := range in.Mounts {
			mine[filepath.Clean(m.Destination)] = true
		}
		kept := s.Mounts[:0]
		for _, m := range s.Mounts {
			if !mine[m.Destination] {
				kept = append(kept, m)
			}
		}
		kept = append(kept, specs.Mount{
			Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"},
		})
		kept = append(kept, in.Mounts...)
		s.Mounts = kept
		s.Linux.RootfsPropagation = rootPropagation(in.Mounts)
		if in.Namespaces.Net == "" {
			bindSysfs(s)
		}
		return nil
	}
}

// rootPropagation is what the container's root must be for its mounts to hear
// of those made outside, or to tell of those made inside. The default, "", is
// private.
func rootPropagation(mounts []specs.Mount) string {
	out := ""
	for _, m := range mounts {
		switch {
		case slices.Contains(m.Options, "rshared"):
			return "rshared"
		case slices.Contains(m.Options, "rslave"):
			out = "rslave"
		}
	}
	return out
}

// bindSysfs mounts the host's sysfs: a new one needs a network namespace of
// one's own.
func bindSysfs(s *specs.Spec) {
	for i, m := range s.Mounts {
		if m.Destination == "/sys" && m.Type == "sysfs" {
			s.Mounts[i] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys",
				Options: []string{"nosuid", "noexec", "nodev", "ro", "rbind"}}
		}
	}
}
