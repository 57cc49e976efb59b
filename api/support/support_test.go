package support

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/apps"
	api "k8s.io/kubernetes/pkg/apis/core"
)

func TestWarningsNameTheField(t *testing.T) {
	bad := api.PodSpec{
		Volumes: []api.Volume{{Name: "ok", VolumeSource: api.VolumeSource{EmptyDir: &api.EmptyDirVolumeSource{}}}, {Name: "share", VolumeSource: api.VolumeSource{NFS: &api.NFSVolumeSource{}}}},
		Containers: []api.Container{{
			Ports:        []api.ContainerPort{{HostPort: 80, Protocol: api.ProtocolSCTP}, {HostPort: 80, Protocol: api.ProtocolTCP}},
			VolumeMounts: []api.VolumeMount{{Name: "share"}},
		}},
	}
	for _, test := range []struct {
		name   string
		object runtime.Object
		fields []string
	}{
		{"a plain pod", &api.Pod{Spec: api.PodSpec{Containers: []api.Container{{Name: "c"}}}}, nil},
		{"a pod", &api.Pod{Spec: bad}, []string{"spec.volumes[1]", "spec.containers[0].ports[0].hostPort"}},
		{"a volume that nobody mounts", &api.Pod{Spec: api.PodSpec{Volumes: bad.Volumes, Containers: []api.Container{{Name: "c"}}}}, nil},
		{"a template", &apps.Deployment{Spec: apps.DeploymentSpec{Template: api.PodTemplateSpec{Spec: bad}}}, []string{"spec.template.spec.volumes[1]"}},
		{"a controller without a template", &api.ReplicationController{}, nil},
		{"a plain service", &api.Service{Spec: api.ServiceSpec{Type: api.ServiceTypeNodePort, SessionAffinity: api.ServiceAffinityNone}}, nil},
		{"a sticky service", &api.Service{Spec: api.ServiceSpec{SessionAffinity: api.ServiceAffinityClientIP}}, nil},
		{"host ports", &api.Pod{Spec: api.PodSpec{Containers: []api.Container{{Ports: []api.ContainerPort{{HostPort: 80, Protocol: api.ProtocolTCP}}}}}}, nil},
		{"SCTP", &api.Service{Spec: api.ServiceSpec{Ports: []api.ServicePort{{}, {Protocol: api.ProtocolSCTP}}}}, []string{"spec.ports[1].protocol"}},
		{"a wish about placement", &api.Pod{Spec: api.PodSpec{TopologySpreadConstraints: []api.TopologySpreadConstraint{{WhenUnsatisfiable: api.DoNotSchedule}, {WhenUnsatisfiable: api.ScheduleAnyway}}}}, nil},
		{"a variable from a file", &api.Pod{Spec: api.PodSpec{Containers: []api.Container{{Env: []api.EnvVar{{Name: "a", ValueFrom: &api.EnvVarSource{FileKeyRef: &api.FileKeySelector{}}}}}}}}, []string{"spec.containers[0].env[0].valueFrom.fileKeyRef"}},
		{"claim templates", &apps.StatefulSet{Spec: apps.StatefulSetSpec{VolumeClaimTemplates: make([]api.PersistentVolumeClaim, 1)}}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			said := fieldWarnings(test.object)
			if len(test.fields) == 0 && len(said) > 0 {
				t.Errorf("warned without a reason: %q", said)
			}
			for _, field := range test.fields {
				if !slices.ContainsFunc(said, func(w string) bool { return strings.HasPrefix(w, field+": ") }) {
					t.Errorf("no warning about %s in %q", field, said)
				}
			}
		})
	}
}

// TestTheMatrixSaysTheSame compares the kinds marked "warned" in the document
// with the table the plug-in works from.
func TestTheMatrixSaysTheSame(t *testing.T) {
	text, err := os.ReadFile("../../docs/support-matrix.md")
	if err != nil {
		t.Fatal(err)
	}
	_, kinds, _ := strings.Cut(string(text), "## Kinds")
	kinds, _, _ = strings.Cut(kinds, "## Pods")
	var documented []string
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \| warned \|`).FindAllStringSubmatch(kinds, -1) {
		for _, kind := range strings.Split(row[1], ",") {
			documented = append(documented, plural(strings.TrimSpace(kind)))
		}
	}
	var known []string
	for resource := range idleKinds {
		known = append(known, resource.Resource)
	}
	slices.Sort(documented)
	slices.Sort(known)
	if !slices.Equal(documented, known) {
		t.Errorf("the matrix warns of\n  %v\nthe plug-in of\n  %v", documented, known)
	}
}

// plural turns a kind into its resource.
func plural(kind string) string {
	lower := strings.ToLower(kind)
	switch {
	case strings.HasSuffix(lower, "policy"):
		return strings.TrimSuffix(lower, "y") + "ies"
	case strings.HasSuffix(lower, "s"):
		return lower + "es"
	}
	return lower + "s"
}
