package runner

import (
	"fmt"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/secretspec"
)

// runcShim is containerd's shim for runtimes with runc's command line.
const runcShim = "io.containerd.runc.v2"

// runtime says what runs a container: runc directly, or by way of what puts
// hidden into its specification.
func (w *worker) runtime(_ *v1.Pod, id string, spec *specs.Spec, hidden *secretspec.Hidden) (containers.RuntimeInfo, error) {
	info := containers.RuntimeInfo{Name: runcShim}
	if hidden.Empty() {
		return info, nil
	}
	link, err := w.r.vault.Store(id, "runc", hidden)
	if err != nil {
		return info, err
	}
	spec.Root.Path = hidden.RootPath()
	if info.Options, err = typeurl.MarshalAny(&options.Options{BinaryName: link}); err != nil {
		return info, fmt.Errorf("encode options of the runtime: %w", err)
	}
	return info, nil
}
