package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"shoal/agent/oci"
)

// mounts are the container's bind mounts: the pod's own files and volumes.
func (w *worker) mounts(pod *v1.Pod, c *v1.Container, env []oci.EnvVar) ([]specs.Mount, error) {
	taken := map[string]bool{}
	for _, m := range c.VolumeMounts {
		taken[filepath.Clean(m.MountPath)] = true
	}
	out := w.ownFiles(pod, taken)
	values := map[string]string{}
	for _, e := range env {
		values[e.Name] = e.Value
	}
	if w.lasting() > 1 && !taken["/dev/shm"] {
		out = append(out, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: w.shmDir(pod), Options: []string{"rbind", "rprivate", "rw"}})
	}
	if m, err := w.terminationLog(pod, c, taken); err != nil {
		return nil, err
	} else if m != nil {
		out = append(out, *m)
	}
	for _, m := range c.VolumeMounts {
		mount, err := w.volumeMount(pod, m, values)
		if err != nil {
			return nil, err
		}
		out = append(out, mount)
	}
	slices.SortStableFunc(out, func(a, b specs.Mount) int {
		return strings.Count(filepath.Clean(a.Destination), "/") - strings.Count(filepath.Clean(b.Destination), "/")
	})
	return out, nil
}

func (w *worker) ownFiles(pod *v1.Pod, taken map[string]bool) []specs.Mount {
	var out []specs.Mount
	for _, at := range []string{hostnamePath, hostsPath, resolvPath} {
		source := filepath.Join(w.podDir(pod), filepath.Base(at))
		if taken[at] {
			continue
		}
		if _, err := os.Stat(source); err != nil {
			continue
		}
		out = append(out, specs.Mount{Destination: at, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "rw"}})
	}
	return out
}

func (w *worker) volumeMount(pod *v1.Pod, m v1.VolumeMount, env map[string]string) (specs.Mount, error) {
	volume, ok := w.r.Volumes.Mounted(pod.UID, m.Name)
	if !ok {
		return specs.Mount{}, fmt.Errorf("volumeMount %s names a volume the pod does not have", m.Name)
	}
	source := volume.Path
	sub := m.SubPath
	if m.SubPathExpr != "" {
		sub = expansion.Expand(m.SubPathExpr, expansion.MappingFuncFor(env))
	}
	if sub != "" {
		var err error
		if source, err = subPath(source, sub); err != nil {
			return specs.Mount{}, fmt.Errorf("volumeMount %s: %w", m.Name, err)
		}
	}
	return specs.Mount{Destination: m.MountPath, Type: "bind", Source: source, Options: mountOptions(m)}, nil
}

func mountOptions(m v1.VolumeMount) []string {
	access, propagation := "rw", "rprivate"
	if m.ReadOnly {
		access = "ro"
	}
	if p := m.MountPropagation; p != nil {
		switch *p {
		case v1.MountPropagationHostToContainer:
			propagation = "rslave"
		case v1.MountPropagationBidirectional:
			propagation = "rshared"
		}
	}
	return []string{"rbind", propagation, access}
}

// subPath resolves a path inside a volume, never leaving it by way of links,
// and makes it if it is not there.
func subPath(volume, sub string) (string, error) {
	root, err := os.OpenRoot(volume)
	if err != nil {
		return "", fmt.Errorf("subPath %s: %w", sub, err)
	}
	defer root.Close()
	if _, err := root.Stat(sub); os.IsNotExist(err) {
		if err := root.MkdirAll(sub, 0o755); err != nil {
			return "", fmt.Errorf("subPath %s: %w", sub, err)
		}
	} else if err != nil {
		return "", fmt.Errorf("subPath %s: %w", sub, err)
	}
	resolved, err := filepath.EvalSymlinks(filepath.Join(volume, sub))
	if err != nil {
		return "", fmt.Errorf("subPath %s: %w", sub, err)
	}
	base, err := filepath.EvalSymlinks(volume)
	if err != nil {
		return "", err
	}
	if resolved != base && !strings.HasPrefix(resolved, base+"/") {
		return "", fmt.Errorf("subPath %s leads out of the volume", sub)
	}
	return resolved, nil
}
