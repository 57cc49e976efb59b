package agent

import (
	"context"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// startBuckets are the kubelet's for pod starts, in seconds, with finer ones
// below, where ours are.
var startBuckets = []float64{0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

// agentMetrics are the agent's own, by the kubelet's names. What is a state is
// read at the scrape; only what happens is counted as it does.
type agentMetrics struct {
	own    *prometheus.Registry
	probes *prometheus.Registry

	podStart    prometheus.Histogram
	started     *prometheus.CounterVec // containers, by what they are
	startFailed *prometheus.CounterVec // by reason
	calls       *prometheus.CounterVec
	callsFailed *prometheus.CounterVec
	callTime    *prometheus.HistogramVec
	probed      *prometheus.CounterVec

	mu   sync.Mutex
	seen map[types.UID]time.Time // pods not yet running, since when; guarded by mu
}

func newAgentMetrics() *agentMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &agentMetrics{
		own: prometheus.NewRegistry(), probes: prometheus.NewRegistry(), seen: map[types.UID]time.Time{},
		podStart: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kubelet_pod_start_duration_seconds", Buckets: startBuckets,
			Help: "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run"}),
		started:     counter("kubelet_started_containers_total", "Cumulative number of containers started", "container_type"),
		startFailed: counter("kubelet_started_containers_errors_total", "Cumulative number of errors when starting containers", "code"),
		calls:       counter("kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type.", "operation_type"),
		callsFailed: counter("kubelet_runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type.", "operation_type"),
		callTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kubelet_runtime_operations_duration_seconds",
			Help: "Duration in seconds of runtime operations. Broken down by operation type.", Buckets: prometheus.ExponentialBuckets(.005, 2.5, 14)}, []string{"operation_type"}),
		probed: counter("prober_probe_total", "Cumulative number of a liveness, readiness or startup probe for a container by result.",
			"probe_type", "result", "container", "pod", "namespace", "pod_uid"),
	}
	m.own.MustRegister(m.podStart, m.started, m.startFailed, m.calls, m.callsFailed, m.callTime,
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	m.probes.MustRegister(m.probed)
	return m
}

func (a *Agent) metricsRoutes(mux *http.ServeMux) {
	a.metrics.own.MustRegister(&state{a})
	a.metrics.own.MustRegister(a.o.Collectors...)
	opts := promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelWarn)}
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.own, opts))
	mux.Handle("GET /metrics/probes", promhttp.HandlerFor(a.metrics.probes, opts))
}

// sawPod notes when a pod that has not run yet was first heard of.
func (m *agentMetrics) sawPod(pod *v1.Pod) {
	if pod.Status.StartTime != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.seen[pod.UID]; !ok {
		m.seen[pod.UID] = time.Now()
	}
}

// sawStatus notes that a pod runs, or has ended without.
func (m *agentMetrics) sawStatus(uid types.UID, phase v1.PodPhase) {
	if phase == v1.PodPending {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	since, ok := m.seen[uid]
	delete(m.seen, uid)
	if ok && phase == v1.PodRunning {
		m.podStart.Observe(time.Since(since).Seconds())
	}
}

func (m *agentMetrics) forget(uid types.UID) {
	m.mu.Lock()
	delete(m.seen, uid)
	m.mu.Unlock()
	m.probed.DeletePartialMatch(prometheus.Labels{"pod_uid": string(uid)})
}

// sawProbe counts a probe's answer.
func (m *agentMetrics) sawProbe(pod *v1.Pod, container, kind, result string) {
	m.probed.WithLabelValues(kind, result, container, pod.Name, pod.Namespace, string(pod.UID)).Inc()
}

// sawEvent counts what events tell of.
func (m *agentMetrics) sawEvent(reason string) {
	switch reason {
	case "Started":
		m.started.WithLabelValues("container").Inc()
	case "Failed", "FailedCreatePodSandBox", "FailedMount":
		m.startFailed.WithLabelValues(reason).Inc()
	}
}

// dialCounted has the calls to containerd counted and timed, streams aside.
func (m *agentMetrics) dialCounted() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		began, op := time.Now(), operation(method)
		err := invoke(ctx, method, req, reply, conn, opts...)
		m.calls.WithLabelValues(op).Inc()
		m.callTime.WithLabelValues(op).Observe(time.Since(began).Seconds())
		if err != nil {
			m.callsFailed.WithLabelValues(op).Inc()
		}
		return err
	})
}

// operations has the names made so far; containerd has some dozens of methods.
var operations sync.Map

// operation turns "/containerd.services.tasks.v1.Tasks/Start" into
// "tasks_start".
func operation(method string) string {
	if known, ok := operations.Load(method); ok {
		return known.(string)
	}
	service := path.Base(path.Dir(method))
	service = service[strings.LastIndexByte(service, '.')+1:]
	var b strings.Builder
	for _, r := range strings.ToLower(service[:min(1, len(service))]) + service[min(1, len(service)):] + "_" + strings.ToLower(path.Base(method)) {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	operations.Store(method, b.String())
	return b.String()
}

// state is what is read at each scrape.
type state struct{ a *Agent }

var (
	nodeNameDesc   = prometheus.NewDesc("kubelet_node_name", "The node's name. The count is always 1.", []string{"node"}, nil)
	podsDesc       = prometheus.NewDesc("kubelet_running_pods", "Number of pods that have a running pod sandbox", nil, nil)
	containersDesc = prometheus.NewDesc("kubelet_running_containers", "Number of containers currently running", []string{"container_state"}, nil)
	buildDesc      = prometheus.NewDesc("kubernetes_build_info", "A metric with a constant '1' value labeled by the version.", []string{"git_version"}, nil)
	volumeDescs    = map[string]*prometheus.Desc{}
)

func init() {
	for name, help := range map[string]string{
		"capacity_bytes": "Capacity in bytes of the volume", "available_bytes": "Number of available bytes in the volume", "used_bytes": "Number of used bytes in the volume",
		"inodes": "Maximum number of inodes in the volume", "inodes_free": "Number of free inodes in the volume", "inodes_used": "Number of used inodes in the volume",
	} {
		volumeDescs[name] = prometheus.NewDesc("kubelet_volume_stats_"+name, help, []string{"namespace", "persistentvolumeclaim"}, nil)
	}
}

// Describe implements prometheus.Collector.
func (s *state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeNameDesc, podsDesc, containersDesc, buildDesc} {
		ch <- d
	}
	for _, d := range volumeDescs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *state) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(nodeNameDesc, 1, s.a.o.NodeName)
	gauge(buildDesc, 1, s.a.o.Version)
	pods := s.a.statPods()
	running, exited := 0, 0
	for _, pod := range s.a.pods.list() {
		for _, c := range s.a.runner.Containers(pod.UID) {
			if c.Running {
				running++
			} else {
				exited++
			}
		}
	}
	gauge(podsDesc, float64(len(pods)))
	gauge(containersDesc, float64(running), "running")
	gauge(containersDesc, float64(exited), "exited")
	told := map[string]bool{}
	for _, c := range s.a.stats.Claims() {
		labels := []string{c.Namespace, c.Claim}
		key := c.Namespace + "/" + c.Claim
		if told[key] {
			continue // several pods use it
		}
		told[key] = true
		for name, value := range map[string]*uint64{
			"capacity_bytes": c.CapacityBytes, "available_bytes": c.AvailableBytes, "used_bytes": c.UsedBytes,
			"inodes": c.Inodes, "inodes_free": c.InodesFree, "inodes_used": c.InodesUsed,
		} {
			if value != nil {
				gauge(volumeDescs[name], float64(*value), labels...)
			}
		}
	}
}
