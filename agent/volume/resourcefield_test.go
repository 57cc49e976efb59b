package volume

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestResourceField(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	}
	bare := v1.Container{Name: "bare"}
	limited := v1.Container{Name: "limited", Resources: v1.ResourceRequirements{Limits: list("2", "32Mi")}}
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{bare, limited}}}
	within := pod.DeepCopy()
	within.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("48Mi")}}
	node := list("4", "64Mi")
	for _, test := range []struct {
		name     string
		pod      *v1.Pod
		own      *v1.Container
		of, what string
		want     string
	}{
		{"no limit", pod, &bare, "", "limits.memory", "67108864"},
		{"no limit, cpu", pod, &bare, "", "limits.cpu", "4"},
		{"its limit", pod, &limited, "", "limits.memory", "33554432"},
		{"another's limit", pod, &bare, "limited", "limits.memory", "33554432"},
		{"another without one", pod, &limited, "bare", "limits.memory", "67108864"},
		{"a file, without one", pod, nil, "bare", "limits.memory", "67108864"},
		{"the pod's limit", within, &bare, "", "limits.memory", "50331648"},
		{"the pod's limit, a file", within, nil, "bare", "limits.memory", "50331648"},
		{"not limited by the pod", within, &bare, "", "limits.cpu", "4"},
		{"its limit within the pod's", within, &limited, "", "limits.memory", "33554432"},
		{"no request", pod, &bare, "", "requests.memory", "0"},
	} {
		got, err := ResourceField(&v1.ResourceFieldSelector{ContainerName: test.of, Resource: test.what}, test.pod, test.own, node)
		if err != nil || got != test.want {
			t.Errorf("%s: %q, %v, want %q", test.name, got, err, test.want)
		}
	}
	if len(bare.Resources.Limits)+len(pod.Spec.Containers[0].Resources.Limits) != 0 || node.Memory().String() != "64Mi" {
		t.Error("what was asked about was changed")
	}
}
