package runner

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/expand"
	"shoal/agent/oci"
	"shoal/agent/volume"
)

// volumeMount is the bind mount of a container's i-th volumeMount. What is
// wrong with it is said in the kubelet's words.
func (w *worker) volumeMount(pod *v1.Pod, c *v1.Container, i int, env map[string]oci.EnvVar) (specs.Mount, error) {
	m := &c.VolumeMounts[i]
	vol, ok := w.r.Volumes.Mounted(pod.UID, m.Name)
	if !ok {
		return specs.Mount{}, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
	}
	source, err := w.mountSource(pod, c, i, vol, env)
	if err != nil {
		return specs.Mount{}, err
	}
	recursive, err := w.recursiveReadOnly(m)
	if err != nil {
		return specs.Mount{}, fmt.Errorf("failed to resolve recursive read-only mode: %w", err)
	}
	access := "rw"
	switch {
	case recursive:
		access = "rro"
	case m.ReadOnly || vol.ReadOnly:
		access = "ro"
	}
	propagation, err := propagationOf(m, source)
	if err != nil {
		// The runtime would have said it.
		return specs.Mount{}, &startError{reason: reasonCreateError, err: err}
	}
	return specs.Mount{Destination: absolute(m.MountPath), Type: "bind", Source: source, Options: []string{"rbind", propagation, access}}, nil
}

func absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return "/" + path
}

// mountSource is the volume, or the part of it that the mount names.
func (w *worker) mountSource(pod *v1.Pod, c *v1.Container, i int, vol volume.Mounted, env map[string]oci.EnvVar) (string, error) {
	m := &c.VolumeMounts[i]
	sub := m.SubPath
	if m.SubPathExpr != "" {
		var err error
		if sub, err = expandSubPath(m.SubPathExpr, env); err != nil {
			return "", err
		}
	}
	if sub == "" {
		return vol.Path, nil
	}
	source, err := w.r.Volumes.SubPath(vol, volume.SubPath{
		PodUID: pod.UID, Volume: m.Name, Container: c.Name, Index: i, Path: sub,
	})
	if hidden := (*volume.SubPathError)(nil); errors.As(err, &hidden) {
		w.log.Warn("path in a volume cannot be mounted", "container", c.Name, "volume", m.Name, "error", hidden.Err)
	}
	return source, err
}

// expandSubPath gives the path that expr stands for. A path is written to disk and
// shown in errors, so a Secret's value is refused in it.
func expandSubPath(expr string, env map[string]oci.EnvVar) (string, error) {
	missing, secret := map[string]bool{}, ""
	out, err := expand.String(expr, unix.PathMax-1, func(name string) (string, bool) {
		if env[name].Value == "" && len(missing) < missingMax {
			missing[name] = true
		}
		if env[name].Secret {
			secret = name
		}
		return env[name].Value, true
	})
	if secret != "" {
		return "", fmt.Errorf("subPathExpr: the value of %s is from a Secret, and would become the name of a directory on disk; use a variable that is not", secret)
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("missing value for %s", strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
	}
	if err != nil {
		return "", fmt.Errorf("subPathExpr: %w", err)
	}
	return out, nil
}

// missingMax bounds the names in one message.
const missingMax = 16

// propagationOf is the mount option for what is mounted later inside or
// outside the container. Only a mount that is shared on the host can pass that
// on.
func propagationOf(m *v1.VolumeMount, source string) (string, error) {
	if m.MountPropagation == nil {
		return "rprivate", nil
	}
	switch *m.MountPropagation {
	case v1.MountPropagationNone:
		return "rprivate", nil
	case v1.MountPropagationHostToContainer:
		return "rslave", checkShared(source, "shared or slave", "shared:", "master:")
	case v1.MountPropagationBidirectional:
		return "rshared", checkShared(source, "shared", "shared:")
	}
	return "", fmt.Errorf("invalid MountPropagation mode: %q", *m.MountPropagation)
}

// checkShared fails unless the mount that path is on has one of the fields.
func checkShared(path, what string, fields ...string) error {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(resolved))
	if err != nil {
		return fmt.Errorf("find the mount of %s: %w", path, err)
	}
	var on *mountinfo.Info
	for _, m := range mounts { // the last of the longest lies on top
		if on == nil || len(m.Mountpoint) >= len(on.Mountpoint) {
			on = m
		}
	}
	if on == nil {
		return fmt.Errorf("find the mount of %s: there is none", path)
	}
	for _, f := range fields {
		if strings.HasPrefix(on.Optional, f) || strings.Contains(on.Optional, " "+f) {
			return nil
		}
	}
	return fmt.Errorf("path %q is mounted on %q but it is not a %s mount", path, on.Mountpoint, what)
}
