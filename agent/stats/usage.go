package stats

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	summary "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metrics "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// Usage is what metrics.k8s.io tells of one host. The node's labels are for
// whoever knows the Node to add.
type Usage struct {
	Node metrics.NodeMetrics  `json:"node"`
	Pods []metrics.PodMetrics `json:"pods"`
}

// Usage answers with rates since an earlier call. The first call in a while
// has none to go by: it waits for a second and reads again.
func (r *Reader) Usage(ctx context.Context) (*Usage, error) {
	s := r.Summary(ctx, true)
	if s.Node.CPU == nil || s.Node.CPU.UsageNanoCores == nil {
		timer := time.NewTimer(rateGapLeast + 50*time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s = r.Summary(ctx, true)
	}
	labels := map[string]map[string]string{}
	for _, pod := range r.o.Pods() {
		labels[string(pod.UID)] = pod.Labels
	}
	window := metav1.Duration{Duration: r.rates.window("/")}
	out := &Usage{Pods: []metrics.PodMetrics{}, Node: metrics.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: s.Node.NodeName}, Window: window,
	}}
	if s.Node.CPU != nil && s.Node.Memory != nil {
		out.Node.Timestamp, out.Node.Usage = s.Node.CPU.Time, usageOf(s.Node.CPU, s.Node.Memory)
		out.Node.CreationTimestamp = out.Node.Timestamp
	}
	for i := range s.Pods {
		if m, ok := podUsage(&s.Pods[i], labels[s.Pods[i].PodRef.UID], window); ok {
			out.Pods = append(out.Pods, m)
		}
	}
	return out, nil
}

// podUsage leaves a pod out until there is a rate for each of its containers,
// as metrics-server does: a sum of some would mislead an autoscaler.
func podUsage(s *summary.PodStats, labels map[string]string, window metav1.Duration) (metrics.PodMetrics, bool) {
	m := metrics.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: s.PodRef.Name, Namespace: s.PodRef.Namespace, Labels: labels},
		Window:     window, Containers: []metrics.ContainerMetrics{},
	}
	for _, c := range s.Containers {
		if c.CPU == nil || c.CPU.UsageNanoCores == nil || c.Memory == nil {
			return m, false
		}
		m.Timestamp = c.CPU.Time
		m.Containers = append(m.Containers, metrics.ContainerMetrics{Name: c.Name, Usage: usageOf(c.CPU, c.Memory)})
	}
	m.CreationTimestamp = m.Timestamp
	return m, len(m.Containers) > 0
}

func usageOf(cpu *summary.CPUStats, memory *summary.MemoryStats) v1.ResourceList {
	var cores, bytes uint64
	if cpu.UsageNanoCores != nil {
		cores = *cpu.UsageNanoCores
	}
	if memory.WorkingSetBytes != nil {
		bytes = *memory.WorkingSetBytes
	}
	return v1.ResourceList{
		v1.ResourceCPU:    *resource.NewScaledQuantity(int64(cores), resource.Nano),
		v1.ResourceMemory: *resource.NewQuantity(int64(bytes), resource.BinarySI),
	}
}

// window is how long the rate last told of a group was over.
func (r *rates) window(group string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.seen[group]; h != nil {
		return h.window.Round(time.Millisecond)
	}
	return 0
}
