package runner

import (
	"context"
	"fmt"
	"path/filepath"

	containeroci "github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"shoal/agent/devices"
	"shoal/agent/oci"
)

// Devices knows what device plugins give to containers.
type Devices interface {
	// For is what a container needs for its devices, nil if it has none. It is
	// asked once before each attempt.
	For(ctx context.Context, pod *v1.Pod, c *v1.Container) (*devices.Use, error)
	// Status is the health of what a container has; nil if nothing.
	Status(pod types.UID, container string) []v1.ResourceStatus
}

// devices are what device plugins give to the container; nil if nothing.
func (w *worker) devices(ctx context.Context, pod *v1.Pod, c *v1.Container) (*devices.Use, error) {
	if w.r.Devices == nil || len(c.Resources.Limits) == 0 {
		return nil, nil
	}
	return w.r.Devices.For(ctx, pod, c)
}

// deviceEnv puts the devices' variables before the pod's own, which win.
func deviceEnv(use *devices.Use, env []oci.EnvVar) []oci.EnvVar {
	if use == nil || len(use.Env) == 0 {
		return env
	}
	out := make([]oci.EnvVar, 0, len(use.Env)+len(env))
	for _, e := range use.Env {
		out = append(out, oci.EnvVar{Name: e.Name, Value: e.Value})
	}
	return append(out, env...)
}

// deviceMounts puts the devices' mounts before the pod's own.
func deviceMounts(use *devices.Use, mounts []specs.Mount) []specs.Mount {
	if use == nil || len(use.Mounts) == 0 {
		return mounts
	}
	out := make([]specs.Mount, 0, len(use.Mounts)+len(mounts))
	for _, m := range use.Mounts {
		access := "rw"
		if m.ReadOnly {
			access = "ro"
		}
		out = append(out, specs.Mount{Destination: m.ContainerPath, Type: "bind", Source: m.HostPath, Options: []string{"rbind", "rprivate", access}})
	}
	out = append(out, mounts...)
	parentsFirst(out)
	return out
}

// addDevices gives the container its device nodes and the right to use them,
// the plugins' annotations beside our own, and what CDI files in dirs say.
func addDevices(ctx context.Context, dirs []string, use *devices.Use, spec *specs.Spec) error {
	if use == nil {
		return nil
	}
	for _, d := range use.Devices {
		path, err := filepath.EvalSymlinks(d.HostPath)
		if err != nil {
			return fmt.Errorf("%w: device %s of a device plugin: %w", oci.ErrCreate, d.HostPath, err)
		}
		if err := containeroci.WithDevices(path, d.ContainerPath, d.Permissions)(ctx, nil, nil, spec); err != nil {
			return fmt.Errorf("%w: device %s of a device plugin: %w", oci.ErrCreate, d.HostPath, err)
		}
	}
	for name, value := range use.Annotations {
		if _, ours := spec.Annotations[name]; !ours {
			spec.Annotations[name] = value
		}
	}
	return injectCDI(dirs, use.CDI, spec)
}
