package oci

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/oci"
	v1 "k8s.io/api/core/v1"
	podarmor "k8s.io/kubernetes/pkg/security/apparmor"
)

// defaultArmor is the AppArmor profile that containerd's CRI plug-in loads
// from the same template, by the same name.
const defaultArmor = "cri-containerd.apparmor.d"

// ErrCreate is wrapped by errors that a kubelet would hear from its container
// runtime: the pod is as it should be, and the host is not.
var ErrCreate = errors.New("create container")

func createError(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrCreate, fmt.Errorf(format, args...))
}

func withProfiles(in Input, privileged bool) ([]oci.SpecOpts, error) {
	armor, err := armorOpt(in, privileged)
	if err != nil {
		return nil, err
	}
	// The default depends on the capabilities, which are set by now.
	calls, err := seccompOpt(in, privileged)
	if err != nil {
		return nil, err
	}
	var opts []oci.SpecOpts
	for _, o := range []oci.SpecOpts{armor, calls} {
		if o != nil {
			opts = append(opts, o)
		}
	}
	return opts, nil
}

func seccompOpt(in Input, privileged bool) (oci.SpecOpts, error) {
	profile := seccompOf(in.Pod, in.Container)
	if profile == nil {
		profile = &v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}
		if in.Security.SeccompDefault {
			profile.Type = v1.SeccompProfileTypeRuntimeDefault
		}
	}
	switch profile.Type {
	case v1.SeccompProfileTypeUnconfined:
		return nil, nil
	case v1.SeccompProfileTypeRuntimeDefault:
		if privileged {
			return nil, nil
		}
		return seccomp.WithDefaultProfile(), nil
	case v1.SeccompProfileTypeLocalhost:
	default:
		return nil, fmt.Errorf("unknown seccomp profile type: %q", profile.Type)
	}
	if profile.LocalhostProfile == nil || *profile.LocalhostProfile == "" {
		return nil, errors.New("localhostProfile must be set if seccompProfile type is Localhost.") //nolint:revive,staticcheck // the kubelet's words
	}
	if privileged {
		return nil, nil
	}
	if !filepath.IsLocal(*profile.LocalhostProfile) {
		return nil, fmt.Errorf("localhostProfile %q leads out of the directory of profiles", *profile.LocalhostProfile)
	}
	file := filepath.Join(in.Security.SeccompDir, *profile.LocalhostProfile)
	if _, err := os.Stat(file); err != nil {
		return nil, createError("cannot load seccomp profile %q: %w; put it on this host", file, err)
	}
	return seccomp.WithProfile(file), nil
}

// armorOpt is AppArmor's part. That the host has it where a pod demands it was
// seen to when the pod was admitted.
func armorOpt(in Input, privileged bool) (oci.SpecOpts, error) {
	profile := podarmor.GetProfile(in.Pod, in.Container)
	if profile == nil {
		profile = &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}
		if !in.Security.AppArmor {
			profile.Type = v1.AppArmorProfileTypeUnconfined
		}
	}
	if profile.Type == v1.AppArmorProfileTypeUnconfined {
		return nil, nil
	}
	if !in.Security.AppArmor {
		return nil, createError("apparmor is not supported: the kernel has it not, or apparmor_parser is not installed")
	}
	switch profile.Type {
	case v1.AppArmorProfileTypeRuntimeDefault:
		if privileged {
			return nil, nil
		}
		return apparmor.WithDefaultProfile(defaultArmor), nil
	case v1.AppArmorProfileTypeLocalhost:
		if profile.LocalhostProfile == nil {
			return nil, errors.New("missing localhost apparmor profile name")
		}
		if err := armorLoaded(armorProfiles, *profile.LocalhostProfile); err != nil {
			return nil, err
		}
		return apparmor.WithProfile(*profile.LocalhostProfile), nil
	}
	return nil, fmt.Errorf("unknown apparmor profile type: %q", profile.Type)
}

// armorProfiles lists what is loaded in the kernel, as "name (mode)".
const armorProfiles = "/sys/kernel/security/apparmor/profiles"

func armorLoaded(list, name string) error {
	f, err := os.Open(list)
	if err != nil {
		return createError("failed to generate apparmor spec opts: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), name+" (") {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return createError("failed to generate apparmor spec opts: %w", err)
	}
	return createError("apparmor profile not found %s; load it on this host with apparmor_parser", name)
}
