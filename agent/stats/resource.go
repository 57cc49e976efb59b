package stats

import (
	"context"

	summary "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Resource is the kubelet's /metrics/resource (KEP-727): what metrics-server
// and autoscalers read, with the time each was read at. Names and help texts
// are those of pkg/kubelet/metrics/collectors of Kubernetes 1.37, whose
// package would bring cadvisor with it.
func (r *Reader) Resource(ctx context.Context) []byte {
	s := r.Summary(ctx, true)
	w := &resourceText{}
	w.node(s.Node)
	w.containers(s.Pods)
	w.pods(s.Pods)
	failed := 0.0
	if s.Node.CPU == nil {
		failed = 1
	}
	for _, name := range []string{"resource_scrape_error", "scrape_error"} {
		w.family(name, gauge, "1 if there was an error while getting container metrics, 0 otherwise")
		w.sample(name, failed, noTime)
	}
	return w.buf
}

type resourceText struct{ text }

func (w *resourceText) node(n summary.NodeStats) {
	if n.CPU == nil || n.Memory == nil {
		return
	}
	w.family("node_cpu_usage_seconds_total", counter, "Cumulative cpu time consumed by the node in core-seconds")
	w.sample("node_cpu_usage_seconds_total", seconds(*n.CPU.UsageCoreNanoSeconds), n.CPU.Time.Time)
	w.family("node_memory_working_set_bytes", gauge, "Current working set of the node in bytes")
	w.sample("node_memory_working_set_bytes", float64(*n.Memory.WorkingSetBytes), n.Memory.Time.Time)
	w.family("node_swap_usage_bytes", gauge, "Current swap usage of the node in bytes. Reported only on non-windows systems")
	w.sample("node_swap_usage_bytes", float64(*n.Swap.SwapUsageBytes), n.Swap.Time.Time)
}

func (w *resourceText) containers(pods []summary.PodStats) {
	each := func(name, kind, help string, do func(c *summary.ContainerStats, labels string)) {
		w.family(name, kind, help)
		for i := range pods {
			p := &pods[i]
			for j := range p.Containers {
				c := &p.Containers[j]
				do(c, labels("container", c.Name, "pod", p.PodRef.Name, "namespace", p.PodRef.Namespace))
			}
		}
	}
	each("container_start_time_seconds", gauge, "Start time of the container since unix epoch in seconds", func(c *summary.ContainerStats, l string) {
		w.sample("container_start_time_seconds", unixSeconds(c.StartTime.Time), noTime, l)
	})
	each("container_cpu_usage_seconds_total", counter, "Cumulative cpu time consumed by the container in core-seconds", func(c *summary.ContainerStats, l string) {
		w.sample("container_cpu_usage_seconds_total", seconds(*c.CPU.UsageCoreNanoSeconds), c.CPU.Time.Time, l)
	})
	each("container_memory_working_set_bytes", gauge, "Current working set of the container in bytes", func(c *summary.ContainerStats, l string) {
		w.sample("container_memory_working_set_bytes", float64(*c.Memory.WorkingSetBytes), c.Memory.Time.Time, l)
	})
	each("container_swap_usage_bytes", gauge, "Current amount of the container swap usage in bytes. Reported only on non-windows systems", func(c *summary.ContainerStats, l string) {
		w.sample("container_swap_usage_bytes", float64(*c.Swap.SwapUsageBytes), c.Swap.Time.Time, l)
	})
	each("container_swap_limit_bytes", gauge, "Current amount of the container swap limit in bytes. Reported only on non-windows systems", func(c *summary.ContainerStats, l string) {
		w.sample("container_swap_limit_bytes", float64(*c.Swap.SwapAvailableBytes+*c.Swap.SwapUsageBytes), c.Swap.Time.Time, l)
	})
}

func (w *resourceText) pods(pods []summary.PodStats) {
	each := func(name, kind, help string, do func(p *summary.PodStats, labels string)) {
		w.family(name, kind, help)
		for i := range pods {
			if p := &pods[i]; p.CPU != nil && p.Memory != nil {
				do(p, labels("pod", p.PodRef.Name, "namespace", p.PodRef.Namespace))
			}
		}
	}
	each("pod_cpu_usage_seconds_total", counter, "Cumulative cpu time consumed by the pod in core-seconds", func(p *summary.PodStats, l string) {
		w.sample("pod_cpu_usage_seconds_total", seconds(*p.CPU.UsageCoreNanoSeconds), p.CPU.Time.Time, l)
	})
	each("pod_memory_working_set_bytes", gauge, "Current working set of the pod in bytes", func(p *summary.PodStats, l string) {
		w.sample("pod_memory_working_set_bytes", float64(*p.Memory.WorkingSetBytes), p.Memory.Time.Time, l)
	})
	each("pod_swap_usage_bytes", gauge, "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", func(p *summary.PodStats, l string) {
		w.sample("pod_swap_usage_bytes", float64(*p.Swap.SwapUsageBytes), p.Swap.Time.Time, l)
	})
}
