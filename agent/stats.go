package agent

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/runner"
	"shoal/agent/stats"
)

// UsagePath is where an agent tells what metrics.k8s.io asks about its host: a
// stats.Usage. It is shoal's own addition to the kubelet's API.
const UsagePath = "/shoal/v1/usage"

func (a *Agent) statsRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /stats/summary", func(w http.ResponseWriter, r *http.Request) {
		only := r.URL.Query().Get("only_cpu_and_memory")
		writeJSON(w, a.stats.Summary(r.Context(), only == "true" || only == "1"))
	})
	mux.HandleFunc("GET "+UsagePath, func(w http.ResponseWriter, r *http.Request) {
		usage, err := a.stats.Usage(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeJSON(w, usage)
	})
	for path, read := range map[string]func(context.Context) []byte{
		"/metrics/resource": a.stats.Resource,
		"/metrics/cadvisor": a.stats.Cadvisor,
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", stats.ContentType)
			_, _ = w.Write(read(r.Context()))
		})
	}
}

func (a *Agent) newStats() *stats.Reader {
	return stats.New(stats.Options{
		NodeName: a.o.NodeName, Cgroups: a.cgroups, DataDir: a.o.DataDir, Pods: a.statPods, Upper: a.upper,
		Volume: func(pod *v1.Pod, vol *v1.Volume) string {
			if m, ok := a.volumes.Mounted(pod.UID, vol.Name); ok && !m.Block && vol.Image == nil {
				return m.Path
			}
			return ""
		},
		Own: func(pod *v1.Pod) []string { return a.runner.OwnFiles(pod.UID) },
		Logs: func(pod *v1.Pod, container string) string {
			return filepath.Join(runner.LogDir(a.o.LogDir, pod), container)
		},
	})
}

// statPods are the pods of this host with the containers that run.
func (a *Agent) statPods() []stats.Pod {
	var out []stats.Pod
	for _, pod := range a.pods.list() {
		p := stats.Pod{Pod: pod}
		for _, c := range a.runner.Containers(pod.UID) {
			if c.Running {
				p.Containers = append(p.Containers, stats.Container{Name: c.Name, ID: c.ID, Image: c.Image, PID: c.PID, StartedAt: c.StartedAt})
			}
		}
		if len(p.Containers) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// upper asks the snapshotter where a container's own layer is.
func (a *Agent) upper(ctx context.Context, id string) string {
	mounts, err := a.client.SnapshotService(snapshotter).Mounts(namespaces.WithNamespace(ctx, a.o.ContainerdNamespace), id)
	if err != nil {
		return ""
	}
	for _, m := range mounts {
		for _, o := range m.Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				return dir
			}
		}
	}
	return ""
}
