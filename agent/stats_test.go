package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	summary "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"

	"shoal/agent/stats"
)

// scrape reads an endpoint as Prometheus does.
func (h *host) scrape(path string) map[string]*dto.MetricFamily {
	h.t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(h.request(http.MethodGet, path, nil, http.StatusOK)))
	if err != nil {
		h.t.Fatalf("%s: %v", path, err)
	}
	return families
}

// value finds the one sample that has these labels, given as name and value,
// or -1.
func value(family *dto.MetricFamily, labels ...string) float64 {
	found := -1.0
	for _, m := range family.GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		matches := true
		for i := 0; i < len(labels); i += 2 {
			matches = matches && has[labels[i]] == labels[i+1]
		}
		if matches && found < 0 {
			found = m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
		}
	}
	return found
}

// TestStats looks at one busy pod through everything that tells of it.
func TestStats(t *testing.T) {
	h := newHost(t, "stat1")
	grace := int64(1)
	_, err := peer.Client.CoreV1().Pods("default").Create(context.Background(), &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "seen", Labels: map[string]string{"app": "seen"}},
		Spec: v1.PodSpec{
			NodeName: h.name, TerminationGracePeriodSeconds: &grace,
			Volumes: []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}},
			Containers: []v1.Container{{
				Name: "main", Image: "box", ImagePullPolicy: v1.PullIfNotPresent,
				Command:       []string{"sh", "-c", `head -c 3000000 /dev/zero > /data/file; head -c 2000000 /dev/zero > /tmp/file; echo written; while :; do i=$((i+1)); done`},
				Resources:     v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi"), v1.ResourceCPU: resource.MustParse("300m")}},
				VolumeMounts:  []v1.VolumeMount{{Name: "data", MountPath: "/data"}},
				LivenessProbe: &v1.Probe{PeriodSeconds: 1, TimeoutSeconds: 60, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := h.running("seen")
	_, client := h.admin()
	h.eventually("the files", func() bool {
		data, err := client.CoreV1().Pods("default").GetLogs("seen", &v1.PodLogOptions{}).DoRaw(context.Background())
		return err == nil && string(data) == "written\n"
	})

	h.seesUsage()
	h.seesTop()
	h.seesSummary(pod)
	const container, where, ns = "container", "pod", "namespace"
	families := h.scrape("/metrics/resource")
	for _, name := range []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds"} {
		if got := value(families[name], container, "main", where, "seen", ns, "default"); got <= 0 {
			t.Errorf("/metrics/resource: %s is %v", name, got)
		}
	}
	for _, name := range []string{"node_cpu_usage_seconds_total", "node_memory_working_set_bytes", "pod_cpu_usage_seconds_total", "pod_memory_working_set_bytes"} {
		if got := value(families[name]); got <= 0 {
			t.Errorf("/metrics/resource: %s is %v", name, got)
		}
	}
	if got := value(families["resource_scrape_error"]); got != 0 {
		t.Errorf("resource_scrape_error is %v", got)
	}
	families = h.scrape("/metrics/cadvisor")
	of := []string{container, "main", where, "seen", ns, "default", "image", pod.Status.ContainerStatuses[0].Image}
	for name, least := range map[string]float64{
		"container_cpu_usage_seconds_total": 0.01, "container_cpu_cfs_periods_total": 1, "container_cpu_cfs_throttled_periods_total": 0,
		"container_memory_working_set_bytes": 4096, "container_memory_failures_total": 1, "container_spec_memory_limit_bytes": 64 << 20,
		"container_spec_cpu_quota": 30000, "container_fs_usage_bytes": 2000000, "container_last_seen": 1, "container_start_time_seconds": 1,
		"container_processes": 1, "container_threads": 1, "container_file_descriptors": 1, "container_sockets": 0,
	} {
		if got := value(families[name], of...); got < least {
			t.Errorf("/metrics/cadvisor: %s is %v, want at least %v", name, got, least)
		}
	}
	if got := value(families["container_network_receive_bytes_total"], where, "seen", "interface", "eth0"); got < 0 {
		t.Errorf("no network of the pod: %v", families["container_network_receive_bytes_total"])
	}
	for _, name := range []string{"machine_cpu_cores", "machine_memory_bytes"} {
		if got := value(families[name]); got <= 0 {
			t.Errorf("%s is %v", name, got)
		}
	}
	h.seesMetrics()
	h.delete("seen")
	if families = h.scrape("/metrics/resource"); len(families["container_cpu_usage_seconds_total"].GetMetric()) != 0 {
		t.Errorf("a deleted pod is still told of: %v", families["container_cpu_usage_seconds_total"])
	}
	if left := h.scrape("/metrics/probes"); len(left) != 0 {
		t.Errorf("its probes are: %v", left)
	}
}

// seesMetrics looks at what the agent counts itself.
func (h *host) seesMetrics() {
	h.t.Helper()
	families := h.scrape("/metrics")
	for name, least := range map[string]float64{
		"kubelet_node_name": 1, "kubelet_running_pods": 1, "kubelet_started_containers_total": 1,
		"kubelet_runtime_operations_total": 1, "process_cpu_seconds_total": 0.01, "kubernetes_build_info": 1,
	} {
		if got := value(families[name]); got < least {
			h.t.Errorf("/metrics: %s is %v", name, got)
		}
	}
	if got := value(families["kubelet_running_containers"], "container_state", "running"); got != 1 {
		h.t.Errorf("running containers: %v", got)
	}
	if got := value(families["kubelet_runtime_operations_total"], "operation_type", "tasks_start"); got < 1 {
		h.t.Errorf("starts of tasks: %v", families["kubelet_runtime_operations_total"])
	}
	if got := families["kubelet_pod_start_duration_seconds"].GetMetric(); len(got) != 1 || got[0].GetHistogram().GetSampleCount() != 1 {
		h.t.Errorf("pod starts: %v", got)
	}
	h.eventually("a probe to be counted", func() bool {
		return value(h.scrape("/metrics/probes")["prober_probe_total"], "pod", "seen", "container", "main", "probe_type", "Liveness", "result", "successful") >= 1
	})
}

func (h *host) seesUsage() {
	h.t.Helper()
	var u stats.Usage
	for range 2 { // the first waits for its second reading, the next has one
		began := time.Now()
		if err := json.Unmarshal([]byte(h.request(http.MethodGet, UsagePath, nil, http.StatusOK)), &u); err != nil {
			h.t.Fatal(err)
		}
		if len(u.Pods) != 1 || len(u.Pods[0].Containers) != 1 || u.Pods[0].Labels["app"] != "seen" {
			h.t.Fatalf("pods: %+v", u.Pods)
		}
		cpu := u.Pods[0].Containers[0].Usage[v1.ResourceCPU]
		// Of a limit of 300; a busy host has less for it, and it alone would take 1000.
		if milli := cpu.MilliValue(); milli < 1 || milli > 800 {
			h.t.Errorf("processor of a container that would use all: %s", cpu.String())
		}
		if u.Node.Usage.Cpu().IsZero() || u.Node.Usage.Memory().IsZero() || u.Node.Window.Duration < 500*time.Millisecond {
			h.t.Errorf("node: %+v", u.Node)
		}
		h.t.Logf("answered in %s, window %s", time.Since(began), u.Node.Window.Duration)
	}
}

// seesTop asks as kubectl top does, of the API server that asks the agent.
func (h *host) seesTop() {
	h.t.Helper()
	config, _ := h.admin()
	client, err := metricsclient.NewForConfig(config)
	if err != nil {
		h.t.Fatal(err)
	}
	pods, err := client.MetricsV1beta1().PodMetricses("default").List(context.Background(), metav1.ListOptions{LabelSelector: "app=seen"})
	if err != nil || len(pods.Items) != 1 || pods.Items[0].Containers[0].Usage.Cpu().IsZero() {
		h.t.Errorf("pods: %+v, %v", pods, err)
	}
	if _, err := client.MetricsV1beta1().PodMetricses("default").Get(context.Background(), "seen", metav1.GetOptions{}); err != nil {
		h.t.Errorf("one pod: %v", err)
	}
	nodes, err := client.MetricsV1beta1().NodeMetricses().List(context.Background(), metav1.ListOptions{LabelSelector: v1.LabelHostname + "=" + h.name})
	if err != nil || len(nodes.Items) != 1 || nodes.Items[0].Usage.Memory().IsZero() {
		h.t.Errorf("nodes: %+v, %v", nodes, err)
	}
}

func (h *host) seesSummary(pod *v1.Pod) {
	h.t.Helper()
	var s summary.Summary
	if err := json.Unmarshal([]byte(h.request(http.MethodGet, "/stats/summary", nil, http.StatusOK)), &s); err != nil {
		h.t.Fatal(err)
	}
	if s.Node.NodeName != h.name || s.Node.Fs == nil || *s.Node.Fs.CapacityBytes == 0 || s.Node.Rlimit == nil || *s.Node.Memory.AvailableBytes == 0 {
		h.t.Errorf("node: %+v", s.Node)
	}
	if len(s.Pods) != 1 || len(s.Pods[0].Containers) != 1 {
		h.t.Fatalf("pods: %+v", s.Pods)
	}
	p := s.Pods[0]
	c := p.Containers[0]
	switch {
	case p.PodRef.UID != string(pod.UID) || p.PodRef.Namespace != "default":
		h.t.Errorf("reference: %+v", p.PodRef)
	case p.CPU.UsageNanoCores == nil || *p.Memory.WorkingSetBytes == 0 || *p.ProcessStats.ProcessCount == 0:
		h.t.Errorf("pod: %+v", p)
	case p.Network == nil || p.Network.Name != "eth0":
		h.t.Errorf("network: %+v", p.Network)
	case *c.Rootfs.UsedBytes < 2000000 || *c.Logs.UsedBytes == 0 || *c.Memory.AvailableBytes == 0 || *c.CPU.UsageCoreNanoSeconds == 0:
		h.t.Errorf("container: %+v", c)
	case *p.EphemeralStorage.UsedBytes < 5000000:
		h.t.Errorf("ephemeral storage: %d", *p.EphemeralStorage.UsedBytes)
	}
	for _, v := range p.VolumeStats {
		if v.Name == "data" && *v.UsedBytes < 3000000 {
			h.t.Errorf("volume: %+v", v)
		}
	}
	if len(p.VolumeStats) != 2 { // and the service account's token
		h.t.Errorf("volumes: %+v", p.VolumeStats)
	}
	if err := json.Unmarshal([]byte(h.request(http.MethodGet, "/stats/summary?only_cpu_and_memory=true", nil, http.StatusOK)), &s); err != nil {
		h.t.Fatal(err)
	}
}
