package fields_test

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kube "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"shoal/api/fields"
	"shoal/store"
)

func encode(t testing.TB, apiVersion, kind string, o kube.Object) []byte {
	t.Helper()
	o.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(apiVersion, kind))
	var b bytes.Buffer
	if err := protobuf.NewSerializer(clientscheme.Scheme, clientscheme.Scheme).Encode(o, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func metaOf(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: name, Namespace: "default", UID: "0b0f6ba5-5d1f-4c8c-9d6a-0d6d0a9b0a11", Generation: 3,
		CreationTimestamp: metav1.Unix(1700000000, 0),
		Labels:            map[string]string{"app": "web", "tier": "front", "release": "stable"},
		Annotations:       map[string]string{"deployment.kubernetes.io/revision": "3", "note": "some text"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl", Operation: "Update", APIVersion: "apps/v1", FieldsType: "FieldsV1",
			FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":{}}}}}`)}},
	}
}

func podSpec() corev1.PodSpec {
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{}}, PeriodSeconds: 10, TimeoutSeconds: 1}
	spec := corev1.PodSpec{
		RestartPolicy: "Always", DNSPolicy: "ClusterFirst", SchedulerName: "default-scheduler", ServiceAccountName: "default",
		SecurityContext: &corev1.PodSecurityContext{},
		Volumes:         []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		Tolerations:     []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute"}},
	}
	for _, name := range []string{"web", "sidecar"} {
		c := corev1.Container{
			Name: name, Image: "registry.example.com/" + name + ":1.2.3", ImagePullPolicy: "IfNotPresent", LivenessProbe: probe, ReadinessProbe: probe,
			Ports:        []corev1.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}},
			VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("64Mi")}},
		}
		for i := range 8 {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprint("VARIABLE_", i), Value: "value"})
		}
		spec.Containers = append(spec.Containers, c)
	}
	return spec
}

type pair struct {
	name, key     string
	before, after []byte
}

func pairs(t testing.TB) []pair {
	replicas := int32(3)
	deployment := &appsv1.Deployment{ObjectMeta: metaOf("web"), Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: podSpec()},
	}, Status: appsv1.DeploymentStatus{Replicas: 3, Conditions: []appsv1.DeploymentCondition{{Type: "Available", Status: "True"}, {Type: "Progressing", Status: "True"}}}}
	scaled := deployment.DeepCopy()
	*scaled.Spec.Replicas = 5
	pod := &corev1.Pod{ObjectMeta: metaOf("web-1"), Spec: podSpec()}
	running := pod.DeepCopy()
	running.Status = corev1.PodStatus{Phase: "Running", PodIP: "10.64.0.7", PodIPs: []corev1.PodIP{{IP: "10.64.0.7"}}, HostIP: "192.168.0.1"}
	for _, c := range []corev1.PodConditionType{"Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		running.Status.Conditions = append(running.Status.Conditions, corev1.PodCondition{Type: c, Status: "True", LastTransitionTime: metav1.Unix(1700000000, 0)})
	}
	config := &corev1.ConfigMap{ObjectMeta: metaOf("config"), Data: map[string]string{}}
	for i := range 20 {
		config.Data[fmt.Sprint("key", i)] = string(bytes.Repeat([]byte("line of text\n"), 20))
	}
	edited := config.DeepCopy()
	edited.Data["key7"] = "other"
	service := &corev1.Service{ObjectMeta: metaOf("web"), Spec: corev1.ServiceSpec{
		Type: "ClusterIP", ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, Selector: map[string]string{"app": "web"},
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: "TCP"}, {Name: "https", Port: 443, Protocol: "TCP"}},
	}}
	exposed := service.DeepCopy()
	exposed.Spec.Type = "NodePort"
	node := &corev1.Node{ObjectMeta: metaOf("host1"), Spec: corev1.NodeSpec{PodCIDR: "10.64.0.0/24", PodCIDRs: []string{"10.64.0.0/24"}}}
	node.Status.Capacity = corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("24Gi"), "pods": resource.MustParse("110")}
	for i := range 20 {
		node.Status.Images = append(node.Status.Images, corev1.ContainerImage{Names: []string{fmt.Sprint("registry.example.com/image", i)}, SizeBytes: 1 << 20})
	}
	cordoned := node.DeepCopy()
	cordoned.Spec.Unschedulable = true
	custom := []byte(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"generation":1,"labels":{"a":"b"},"name":"x","uid":"u"},"spec":{"list":[1,2,3],"nested":{"a":{"b":"c","d":1.5}},"size":3}}` + "\n")
	return []pair{
		{"Deployment", "/registry/deployments/default/web", encode(t, "apps/v1", "Deployment", deployment), encode(t, "apps/v1", "Deployment", scaled)},
		{"Pod", "/registry/pods/default/web-1", encode(t, "v1", "Pod", pod), encode(t, "v1", "Pod", running)},
		{"ConfigMap", "/registry/configmaps/default/config", encode(t, "v1", "ConfigMap", config), encode(t, "v1", "ConfigMap", edited)},
		{"Service", "/registry/services/specs/default/web", encode(t, "v1", "Service", service), encode(t, "v1", "Service", exposed)},
		{"Node", "/registry/minions/host1", encode(t, "v1", "Node", node), encode(t, "v1", "Node", cordoned)},
		{"Custom", "/registry/example.com/things/default/x", custom, bytes.Replace(custom, []byte(`"size":3`), []byte(`"size":4`), 1)},
	}
}

func BenchmarkChanged(b *testing.B) {
	m := fields.New(clientscheme.Scheme)
	for _, p := range pairs(b) {
		b.Run(p.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := m.Changed(p.key, p.before, p.after); !ok {
					b.Fatal("no fields")
				}
			}
			b.ReportMetric(float64(len(p.after)), "object-bytes")
		})
	}
}

func BenchmarkJoin(b *testing.B) {
	m := fields.New(clientscheme.Scheme)
	for _, p := range pairs(b) {
		b.Run(p.name, func(b *testing.B) {
			set, _ := m.Changed(p.key, p.before, p.after)
			w := store.Stamp{Time: 2, Actor: 2}
			base := &store.Record{Value: p.before}
			other := &store.Record{Value: p.after, Stamps: []store.Stamp{{Time: 2, Actor: 2, Fields: set}}}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := m.Join(p.key, base, other, []store.Stamp{w}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLoaded reports what a merger that has seen these types keeps.
func BenchmarkLoaded(b *testing.B) {
	all := pairs(b)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m := fields.New(clientscheme.Scheme)
	for b.Loop() {
		for _, p := range all {
			m.Changed(p.key, p.before, p.after)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/1024, "KiB-kept")
}
