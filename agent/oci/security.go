package oci

import (
	"context"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/securitycontext"
)

// Security is how the host guards containers.
type Security struct {
	// SeccompDir has the profiles that seccompProfile.localhostProfile names.
	SeccompDir string
	// SeccompDefault gives RuntimeDefault to those that say nothing.
	SeccompDefault bool
	// AppArmor says that the kernel has it and profiles can be loaded.
	AppArmor bool
}

func withSecurity(in Input) ([]oci.SpecOpts, error) {
	sc := securitycontext.DetermineEffectiveSecurityContext(in.Pod, in.Container)
	privileged := sc.Privileged != nil && *sc.Privileged
	var opts []oci.SpecOpts
	if privileged {
		opts = append(opts, oci.WithPrivileged, oci.WithAllDevicesAllowed, oci.WithHostDevices, writableCgroup)
	} else {
		opts = append(opts, oci.WithDefaultUnixDevices, withCapabilities(sc.Capabilities),
			oci.WithMaskedPaths(securitycontext.ConvertToRuntimeMaskedPaths(sc.ProcMount)),
			oci.WithReadonlyPaths(securitycontext.ConvertToRuntimeReadonlyPaths(sc.ProcMount)))
	}
	opts = append(opts, withoutAmbient)
	if sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem {
		opts = append(opts, oci.WithRootFSReadonly())
	}
	if securitycontext.AddNoNewPrivileges(sc) {
		opts = append(opts, oci.WithNoNewPrivileges)
	}
	profiles, err := withProfiles(in, privileged)
	if err != nil {
		return nil, err
	}
	return append(append(opts, profiles...), withSysctls(in)), nil
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

// seccompOf is the container's wish, or else the pod's.
func seccompOf(pod *v1.Pod, c *v1.Container) *v1.SeccompProfile {
	if sc := c.SecurityContext; sc != nil && sc.SeccompProfile != nil {
		return sc.SeccompProfile
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.SeccompProfile
	}
	return nil
}
