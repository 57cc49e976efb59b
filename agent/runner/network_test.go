package runner

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/netdp/policy/tables"
)

// The host's network is told what network policies know a pod by.
func TestNetworkPodIdentity(t *testing.T) {
	w := &worker{r: &Runner{}}
	got := w.networkPod(&v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Ports: []v1.ContainerPort{{Name: "http", ContainerPort: 80}}}}},
	})
	want := &tables.Identity{Labels: map[string]string{"app": "web"}, Ports: []tables.NamedPort{{Name: "http", Protocol: 6, Port: 80}}}
	if !got.Identity.Equal(want) {
		t.Errorf("identity is %+v", got.Identity)
	}
}
