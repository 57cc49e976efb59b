package runner

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/runtimes"
	"shoal/agent/secretspec"
)

// findRuntime learns what runs the pod's containers, as its RuntimeClass says.
// A pod that already runs is not held up by a class that is gone: it is asked
// for again when the next container is made.
func (w *worker) findRuntime(ctx context.Context, pod *v1.Pod) error {
	if w.box.runtime != nil {
		return nil
	}
	handler := ""
	if class := pod.Spec.RuntimeClassName; class != nil && *class != "" {
		var err error
		if handler, err = w.r.Source.RuntimeHandler(ctx, *class); err != nil {
			return fmt.Errorf("look up RuntimeClass %s: %w", *class, err)
		}
	}
	found, err := w.r.Runtimes.Get(handler)
	if err != nil {
		return err
	}
	w.box.runtime = &found
	return nil
}

// prepareRuntime is findRuntime for a sandbox in the making.
func (w *worker) prepareRuntime(ctx context.Context, pod *v1.Pod) error {
	err := w.findRuntime(ctx, pod)
	if err == nil || ctx.Err() != nil {
		return err
	}
	for _, s := range w.slots {
		if s.current != nil {
			return nil
		}
	}
	return fmt.Errorf("Failed to create pod sandbox: %w", err) //nolint:staticcheck // the kubelet's words, shown as they are
}

// runtimeOf says what runs a container, directly or by way of what puts
// hidden into its specification.
func (w *worker) runtimeOf(ctx context.Context, pod *v1.Pod, id string, spec *specs.Spec, hidden *secretspec.Hidden) (containers.RuntimeInfo, error) {
	if err := w.findRuntime(ctx, pod); err != nil {
		return containers.RuntimeInfo{}, err
	}
	r := *w.box.runtime
	info := containers.RuntimeInfo{Name: r.Shim}
	var link string
	var err error
	if !hidden.Empty() {
		if !r.Runc() {
			return info, fmt.Errorf("the environment has values of Secrets, which %s would write to disk; mount them as files", r.Shim)
		}
		if err := w.keepsNoSecrets(ctx, r); err != nil {
			return info, err
		}
		if link, err = w.r.vault.Store(id, r.Binary, hidden); err != nil {
			return info, err
		}
		spec.Root.Path = hidden.RootPath()
	}
	info.Options, err = r.Options(link, w.rootID())
	return info, err
}

// runtimeState is where runtimes keep their own state of containers.
const runtimeState = "/run/containerd"

// keepsNoSecrets refuses a runtime that may keep a copy of the specification,
// as crun does, where that is on a disk. runc keeps none.
func (w *worker) keepsNoSecrets(ctx context.Context, r runtimes.Runtime) error {
	if r.Binary == runtimes.Default || strings.HasPrefix(w.r.Runtimes.Features(ctx, r).Version, "runc ") {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(runtimeState, &st); err != nil {
		return fmt.Errorf("look at %s: %w", runtimeState, err)
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return nil
	}
	return fmt.Errorf("the environment has values of Secrets, and runtime %s may keep them in %s, which is not on a tmpfs; mount one at /run, or mount the Secrets as files", r.Handler, runtimeState)
}

// explain adds to the error of a runtime what is known to be behind it.
func (w *worker) explain(ctx context.Context, pod *v1.Pod, c *v1.Container, err error) error {
	if little := tooLittleMemory(pod, c, err); little != nil {
		return little
	}
	if w.box.runtime == nil || w.r.Cgroups.Unified() {
		return err
	}
	version := w.r.Runtimes.Features(ctx, *w.box.runtime).Version
	if _, statErr := os.Stat("/sys/fs/cgroup/unified/cgroup.procs"); statErr != nil || !strings.HasPrefix(version, "crun ") {
		return err
	}
	return fmt.Errorf("%w (%s cannot use this host's hybrid cgroups, v1 with v2 beside it: use runc, or boot with systemd.unified_cgroup_hierarchy=1)", err, version)
}
