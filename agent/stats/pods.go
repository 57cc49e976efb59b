package stats

import (
	"context"

	v1 "k8s.io/api/core/v1"
	summary "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// PodStats measures those of pods that run: memory and tasks, and with disk also
// what they keep there.
func (r *Reader) PodStats(ctx context.Context, pods []*v1.Pod, disk bool) []summary.PodStats {
	want := make(map[string]bool, len(pods))
	for _, pod := range pods {
		want[string(pod.UID)] = true
	}
	var out []summary.PodStats
	for _, pod := range r.o.Pods() {
		if !want[string(pod.UID)] {
			continue
		}
		s := r.podSummary(ctx, pod, !disk)
		if pids, err := r.o.Cgroups.PIDs(r.podGroup(pod)); err == nil {
			s.ProcessStats = &summary.ProcessStats{ProcessCount: &pids.Current}
		}
		out = append(out, s)
	}
	return out
}
