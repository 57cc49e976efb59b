package runner

import (
	"errors"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestTooLittleMemory(t *testing.T) {
	limits := func(memory string) v1.ResourceRequirements {
		return v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}}
	}
	enomem := errors.New("unable to apply cgroup configuration: mkdir /sys/fs/cgroup/memory/x/0123: cannot allocate memory")
	within := limits("1Mi")
	for _, test := range []struct {
		name string
		pod  *v1.ResourceRequirements
		own  v1.ResourceRequirements
		err  error
		want string
	}{
		{"the group", nil, limits("1Ki"), enomem, "resources.limits.memory of the container, 1Ki, is too small"},
		{"the first process", nil, limits("1Mi"), errors.New("container init was OOM-killed (memory limit too low?)"), "the container, 1Mi, is"},
		{"the pod's", &within, v1.ResourceRequirements{}, enomem, "resources.limits.memory of the pod, 1Mi, is too small"},
		{"the smaller", &within, limits("1Ki"), enomem, "resources.limits.memory of the container, 1Ki"},
		{"no limit", nil, v1.ResourceRequirements{}, enomem, ""},
		{"plenty", nil, limits("1Gi"), enomem, ""},
		{"another cause", nil, limits("1Ki"), errors.New("exec: no such file"), ""},
	} {
		err := tooLittleMemory(&v1.Pod{Spec: v1.PodSpec{Resources: test.pod}}, &v1.Container{Resources: test.own}, test.err)
		if (err != nil) != (test.want != "") || err != nil && (!strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "0123")) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// starvedPod has less memory than a start takes: the limit is named, in words
// that are the same for each attempt.
func starvedPod(b *bed) {
	p := pod("starved", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Ki")}
	})
	b.runner.Set(p)
	const want = "resources.limits.memory of the container, 1Ki, is too small to start it"
	b.container(p, "main", "refused", func(c v1.ContainerStatus) bool {
		t := c.LastTerminationState.Terminated
		return t != nil && strings.HasPrefix(t.Message, want)
	})
	if e := b.event(p, "Failed"); !strings.Contains(e, ": Error: "+want) {
		b.t.Errorf("event %q", e)
	}
	b.remove(p)
}
