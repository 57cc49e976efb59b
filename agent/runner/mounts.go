package runner

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/oci"
)

// mounts are the container's bind mounts: the pod's own files and volumes.
func (w *worker) mounts(pod *v1.Pod, c *v1.Container, env []oci.EnvVar) ([]specs.Mount, error) {
	taken := map[string]bool{}
	for _, m := range c.VolumeMounts {
		taken[filepath.Clean(m.MountPath)] = true
	}
	out := w.ownFiles(pod, taken)
	values := map[string]oci.EnvVar{}
	for _, e := range env {
		values[e.Name] = e
	}
	if (w.lasting() > 1 || pod.Spec.HostIPC) && !taken["/dev/shm"] {
		out = append(out, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: w.shmDir(pod), Options: []string{"rbind", "rprivate", "rw"}})
	}
	if m, err := w.terminationLog(pod, c, taken); err != nil {
		return nil, err
	} else if m != nil {
		out = append(out, *m)
	}
	for i := range c.VolumeMounts {
		mount, err := w.volumeMount(pod, c, i, values)
		if err != nil {
			return nil, err
		}
		out = append(out, mount)
	}
	parentsFirst(out)
	return out, nil
}

// parentsFirst orders mounts so that none hides another.
func parentsFirst(mounts []specs.Mount) {
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int {
		return strings.Count(filepath.Clean(a.Destination), "/") - strings.Count(filepath.Clean(b.Destination), "/")
	})
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
