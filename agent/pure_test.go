package agent

import (
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"shoal/agent/oom"
	"shoal/agent/shutdown"
)

func asking(uid, cpu, memory string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}, Spec: v1.PodSpec{
		Containers: []v1.Container{{Name: "main"}}, Tolerations: []v1.Toleration{{Key: "gone", Operator: v1.TolerationOpExists}}}}
	p.Spec.Containers[0].Resources.Requests = v1.ResourceList{
		v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory),
	}
	return p
}

// admitter is an agent that only admits, on a node of these resources.
func admitter(host v1.ResourceList) *Agent {
	live := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"disk": "fast"}}, Spec: v1.NodeSpec{
		Taints: []v1.Taint{{Key: "gone", Effect: v1.TaintEffectNoExecute}, {Key: "soon", Effect: v1.TaintEffectNoSchedule}},
	}}
	a := &Agent{pods: newPodIndex(), node: &node{alloc: host, live: live}, events: newEvents(nil, "n"), kube: fake.NewClientset(live)}
	a.o.NodeName = "n"
	a.admission = a.newAdmission()
	a.security, _ = newPodSecurity(nil)
	a.shutdown = shutdown.New(shutdown.Options{})
	return a
}

func TestAdmission(t *testing.T) {
	host := v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi"), v1.ResourcePods: resource.MustParse("3"),
		"example.com/dongle": resource.MustParse("1"),
	}
	with := func(p *v1.Pod, change func(*v1.Pod)) *v1.Pod {
		change(p)
		return p
	}
	ended := asking("done", "2", "1Gi")
	ended.Status.Phase = v1.PodSucceeded
	extended := func(uid, name string) *v1.Pod {
		return with(asking(uid, "0", "0"), func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests[v1.ResourceName(name)] = resource.MustParse("1")
		})
	}
	port := func(uid string) *v1.Pod {
		return with(asking(uid, "0", "0"), func(p *v1.Pod) {
			p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: 80, ContainerPort: 80}}
		})
	}
	for name, test := range map[string]struct {
		pod    *v1.Pod
		others []*v1.Pod
		want   string
	}{
		"alone":                  {asking("x", "2", "1Gi"), nil, ""},
		"exactly what's left":    {asking("x", "500m", "1"), []*v1.Pod{asking("a", "1500m", "1")}, ""},
		"cpu":                    {asking("x", "501m", "1"), []*v1.Pod{asking("a", "1500m", "1")}, "OutOfcpu"},
		"memory":                 {asking("x", "1m", "1Gi"), []*v1.Pod{asking("a", "1m", "1")}, "OutOfmemory"},
		"pods":                   {asking("x", "0", "0"), []*v1.Pod{asking("a", "0", "0"), asking("b", "0", "0"), asking("c", "0", "0")}, "OutOfpods"},
		"ended ones are free":    {asking("x", "2", "1Gi"), []*v1.Pod{ended}, ""},
		"itself":                 {asking("x", "2", "1Gi"), []*v1.Pod{asking("x", "2", "1Gi")}, ""},
		"an extended resource":   {extended("x", "example.com/dongle"), nil, ""},
		"one that is all taken":  {extended("x", "example.com/dongle"), []*v1.Pod{extended("a", "example.com/dongle")}, "OutOfexample.com/dongle"},
		"one the node never had": {extended("x", "example.com/gpu"), nil, ""}, // as the kubelet: it may be the cluster's
		"a port":                 {port("x"), nil, ""},
		"a port that is taken":   {port("x"), []*v1.Pod{port("a")}, "NodePorts"},
		"a label":                {with(asking("x", "0", "0"), func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "fast"} }), nil, ""},
		"another label":          {with(asking("x", "0", "0"), func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "slow"} }), nil, "NodeAffinity"},
		"another node":           {with(asking("x", "0", "0"), func(p *v1.Pod) { p.Spec.NodeName = "m" }), nil, "NodeName"},
		"another system":         {with(asking("x", "0", "0"), func(p *v1.Pod) { p.Spec.OS = &v1.PodOS{Name: v1.Windows} }), nil, "PodOSNotSupported"},
		"no toleration":          {with(asking("x", "0", "0"), func(p *v1.Pod) { p.Spec.Tolerations = nil }), nil, "TaintToleration"},
	} {
		a := admitter(host)
		for _, o := range test.others {
			a.pods.put(o)
			a.pods.grant(o)
		}
		if got, message := a.admit(test.pod); got != test.want || (got != "" && message == "") {
			t.Errorf("%s: %q (%s), want %q", name, got, message, test.want)
		}
	}
}

// TestAdmitInOrder: of two pods that fit only alone, one runs.
func TestAdmitInOrder(t *testing.T) {
	host := v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi"), v1.ResourcePods: resource.MustParse("9")}
	a := admitter(host)
	one, two, old := asking("1", "1500m", "1"), asking("2", "1500m", "1"), asking("0", "100m", "1")
	one.Name, two.Name, old.Name = "one", "two", "old"
	now := metav1.Now()
	old.Status.StartTime = &now
	for _, p := range []*v1.Pod{one, two, old} {
		a.pods.put(p)
	}
	if reason, _ := a.admit(one); reason != "" {
		t.Errorf("the first: %s", reason)
	}
	if reason, _ := a.admit(two); reason != "OutOfcpu" {
		t.Errorf("the second: %q, want OutOfcpu", reason)
	}
	a.pods.drop(one)
	if reason, _ := a.admit(two); reason != "" {
		t.Errorf("after the first went: %s", reason)
	}
}

func TestServiceEnv(t *testing.T) {
	env := map[string]string{}
	serviceEnv(&v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "my-db"}, Spec: v1.ServiceSpec{ClusterIP: "10.0.0.9", Ports: []v1.ServicePort{
		{Name: "sql-1", Port: 5432, Protocol: v1.ProtocolTCP}, {Name: "x", Port: 53, Protocol: v1.ProtocolUDP}}}}, env)
	serviceEnv(&v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "headless"}, Spec: v1.ServiceSpec{ClusterIP: "None"}}, env)
	for name, want := range map[string]string{
		"MY_DB_SERVICE_HOST": "10.0.0.9", "MY_DB_SERVICE_PORT": "5432", "MY_DB_SERVICE_PORT_SQL_1": "5432",
		"MY_DB_PORT": "tcp://10.0.0.9:5432", "MY_DB_PORT_53_UDP": "udp://10.0.0.9:53", "MY_DB_PORT_5432_TCP_ADDR": "10.0.0.9",
		"HEADLESS_SERVICE_HOST": "",
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
}

func TestLogOptions(t *testing.T) {
	q, _ := url.ParseQuery("follow=true&tailLines=5&sinceTime=2026-01-02T03:04:05Z&timestamps=true&limitBytes=9&previous=false")
	o, err := logOptions(q)
	if err != nil || !o.Follow || *o.TailLines != 5 || !o.Timestamps || *o.LimitBytes != 9 || o.Previous || o.SinceTime.Year() != 2026 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{"follow=maybe", "tailLines=-1", "tailLines=x", "sinceTime=noon"} {
		q, _ := url.ParseQuery(bad)
		if _, err := logOptions(q); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// TestReservedDisk: the disk of a data directory that is still to be made is
// known by its parents.
func TestReservedDisk(t *testing.T) {
	r := Resources{Reserved: "ephemeral-storage=1Ei"}
	missing := filepath.Join(t.TempDir(), "not", "made")
	if err := r.Check(missing); err == nil || !strings.Contains(err.Error(), "leaves nothing") {
		t.Errorf("a reserve above the disk's size: %v", err)
	}
	if err := (Resources{}).Check("not/made"); err != nil {
		t.Errorf("a relative directory: %v", err)
	}
}

// TestTellKill: a host without memory is an Event of the node; a container that
// met its own limit is none.
func TestTellKill(t *testing.T) {
	var told []string
	n := &node{tell: func(kind, reason, message string) { told = append(told, kind+" "+reason+" "+message) }}
	n.tellKill(oom.Kill{Process: "dd", Pid: 7})
	n.tellKill(oom.Kill{Process: "java", Pid: 42, Host: true})
	if want := []string{"Warning SystemOOM System OOM encountered, victim process: java, pid: 42"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}
