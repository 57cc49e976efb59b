package oci

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	capabilities "github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

// ErrRunsAsRoot says that a container that must not run as root would.
var ErrRunsAsRoot = errors.New("container has runAsNonRoot and would run as root")

func withSecurity(in Input) ([]oci.SpecOpts, error) {
	sc := in.Container.SecurityContext
	if sc == nil {
		sc = &v1.SecurityContext{}
	}
	var opts []oci.SpecOpts
	privileged := sc.Privileged != nil && *sc.Privileged
	if privileged {
		opts = append(opts, oci.WithPrivileged, oci.WithAllDevicesAllowed, oci.WithHostDevices, writableCgroup)
	} else {
		opts = append(opts, oci.WithDefaultUnixDevices, withCapabilities(sc.Capabilities))
		opts = append(opts, withProcMount(sc.ProcMount)...)
	}
	if sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem {
		opts = append(opts, oci.WithRootFSReadonly())
	}
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		opts = append(opts, oci.WithNoNewPrivileges)
	}
	profile := sc.SeccompProfile
	if pod := in.Pod.Spec.SecurityContext; profile == nil && pod != nil {
		profile = pod.SeccompProfile
	}
	opt, err := seccompOpt(profile)
	if err != nil {
		return nil, err
	}
	// The profile depends on the capabilities, so it comes after them.
	if opt != nil && !privileged {
		opts = append(opts, opt)
	}
	return append(opts, withSysctls(in)), nil
}

func withProcMount(kind *v1.ProcMountType) []oci.SpecOpts {
	if kind == nil || *kind != v1.UnmaskedProcMount {
		return nil
	}
	return []oci.SpecOpts{oci.WithMaskedPaths(nil), oci.WithReadonlyPaths(nil)}
}

func writableCgroup(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
	for i, m := range s.Mounts {
		if m.Type != "cgroup" && m.Type != "sysfs" {
			continue
		}
		for j, o := range m.Options {
			if o == "ro" {
				s.Mounts[i].Options[j] = "rw"
			}
		}
	}
	return nil
}

func withCapabilities(want *v1.Capabilities) oci.SpecOpts {
	return func(ctx context.Context, c oci.Client, r *containers.Container, s *specs.Spec) error {
		if want == nil {
			return nil
		}
		add, drop := capNames(want.Add), capNames(want.Drop)
		// ALL first, single ones after: drop ALL with an added one keeps
		// that one, add ALL with a dropped one loses it.
		if has(add, "CAP_ALL") {
			if err := oci.WithCapabilities(capabilities.Known())(ctx, c, r, s); err != nil {
				return err
			}
		}
		if has(drop, "CAP_ALL") {
			if err := oci.WithCapabilities(nil)(ctx, c, r, s); err != nil {
				return err
			}
		}
		if err := oci.WithAddedCapabilities(without(add, "CAP_ALL"))(ctx, c, r, s); err != nil {
			return err
		}
		return oci.WithDroppedCapabilities(without(drop, "CAP_ALL"))(ctx, c, r, s)
	}
}

func capNames(in []v1.Capability) []string {
	out := make([]string, 0, len(in))
	for _, c := range in {
		name := strings.ToUpper(string(c))
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		out = append(out, name)
	}
	return out
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func without(list []string, s string) []string {
	var out []string
	for _, x := range list {
		if x != s {
			out = append(out, x)
		}
	}
	return out
}

func withSysctls(in Input) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		pod := in.Pod.Spec.SecurityContext
		if pod == nil || len(pod.Sysctls) == 0 {
			return nil
		}
		s.Linux.Sysctl = map[string]string{}
		for _, c := range pod.Sysctls {
			s.Linux.Sysctl[strings.ReplaceAll(c.Name, "/", ".")] = c.Value
		}
		return nil
	}
}

// UserString is the user the container runs as, in the image's own syntax,
// or "" for root with nothing to look up.
func UserString(pod *v1.Pod, c *v1.Container, imageUser string) string {
	var uid, gid *int64
	if p := pod.Spec.SecurityContext; p != nil {
		uid, gid = p.RunAsUser, p.RunAsGroup
	}
	if s := c.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			uid = s.RunAsUser
		}
		if s.RunAsGroup != nil {
			gid = s.RunAsGroup
		}
	}
	user := imageUser
	if uid != nil {
		user = strconv.FormatInt(*uid, 10)
	}
	if gid != nil {
		name, _, _ := strings.Cut(user, ":")
		if name == "" {
			name = "0"
		}
		user = name + ":" + strconv.FormatInt(*gid, 10)
	}
	return user
}

// withUser sets the process's user: the one the caller already knows, or by
// looking into the container's root file system.
func withUser(in Input) oci.SpecOpts {
	return func(ctx context.Context, c oci.Client, r *containers.Container, s *specs.Spec) error {
		if in.User != nil {
			s.Process.User = *in.User
			s.Process.User.AdditionalGids = append([]uint32{}, in.User.AdditionalGids...)
		} else if user := UserString(in.Pod, in.Container, in.Image.User); user != "" {
			if err := oci.WithUser(user)(ctx, c, r, s); err != nil {
				return fmt.Errorf("find user %q in the image: %w", user, err)
			}
		}
		for _, g := range in.Groups {
			s.Process.User.AdditionalGids = append(s.Process.User.AdditionalGids, uint32(g))
		}
		return checkNonRoot(in, s.Process.User.UID)
	}
}

func checkNonRoot(in Input, uid uint32) error {
	var nonRoot *bool
	if p := in.Pod.Spec.SecurityContext; p != nil {
		nonRoot = p.RunAsNonRoot
	}
	if s := in.Container.SecurityContext; s != nil && s.RunAsNonRoot != nil {
		nonRoot = s.RunAsNonRoot
	}
	if nonRoot != nil && *nonRoot && uid == 0 {
		return fmt.Errorf("%w (container: %s); set runAsUser or use an image with another user", ErrRunsAsRoot, in.Container.Name)
	}
	return nil
}
