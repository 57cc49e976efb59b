package agent

import (
	"context"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ptr[T any](v T) *T { return &v }

// pod makes one of a single container, changed.
func (h *host) pod(name, script string, change func(*v1.Pod)) *v1.Pod {
	h.t.Helper()
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PodSpec{
			NodeName: h.name, TerminationGracePeriodSeconds: ptr(int64(1)),
			Containers: []v1.Container{{Name: "main", Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"sh", "-c", script}}},
		},
	}
	change(p)
	p, err := peer.Client.CoreV1().Pods("default").Create(context.Background(), p, metav1.CreateOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// until waits for a pod's status in the API.
func (h *host) until(name, what string, ok func(*v1.PodStatus) bool) *v1.Pod {
	h.t.Helper()
	var pod *v1.Pod
	h.eventually(name+" "+what, func() bool {
		var err error
		pod, err = peer.Client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		return err == nil && ok(&pod.Status)
	})
	return pod
}

// TestLife has pods whose statuses the real API server takes, or refuses.
func TestLife(t *testing.T) {
	h := newHost(t, "life")
	ctx := context.Background()
	core := peer.Client.CoreV1()

	// A secret that comes later.
	h.pod("patient", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "S", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{
			LocalObjectReference: v1.LocalObjectReference{Name: "late"}, Key: "k"}}}}
	})
	h.until("patient", "to wait", func(s *v1.PodStatus) bool {
		return len(s.ContainerStatuses) == 1 && s.ContainerStatuses[0].State.Waiting != nil &&
			s.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError" &&
			s.ContainerStatuses[0].State.Waiting.Message == `secret "late" not found`
	})
	secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "late"}, StringData: map[string]string{"k": "v"}}
	if _, err := core.Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := h.running("patient")

	// `kubectl debug` of it.
	pod.Spec.EphemeralContainers = []v1.EphemeralContainer{{
		EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "debug", Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"sh", "-c", "exit 4"}},
		TargetContainerName:      "main",
	}}
	if _, err := core.Pods("default").UpdateEphemeralContainers(ctx, "patient", pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.until("patient", "to be looked at", func(s *v1.PodStatus) bool {
		return len(s.EphemeralContainerStatuses) == 1 && s.EphemeralContainerStatuses[0].State.Terminated != nil &&
			s.EphemeralContainerStatuses[0].State.Terminated.ExitCode == 4
	})

	// A job's pod with a sidecar.
	h.pod("job", "exit 0", func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		side := *p.Spec.Containers[0].DeepCopy()
		side.Name, side.Command, side.RestartPolicy = "side", []string{"sh", "-c", sleeper}, ptr(v1.ContainerRestartPolicyAlways)
		p.Spec.InitContainers = []v1.Container{side}
	})
	h.until("job", "to succeed", func(s *v1.PodStatus) bool { return s.Phase == v1.PodSucceeded })

	// Rules of one container, and a restart of all.
	h.pod("ruled", "exit 42", func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.Containers[0].RestartPolicy = ptr(v1.ContainerRestartPolicyNever)
		p.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{
			Action:    v1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
		}}
		first := *p.Spec.Containers[0].DeepCopy()
		first.Name, first.Command, first.RestartPolicy, first.RestartPolicyRules = "first", []string{"true"}, nil, nil
		p.Spec.InitContainers = []v1.Container{first}
	})
	h.until("ruled", "to begin anew", func(s *v1.PodStatus) bool {
		return s.Phase == v1.PodRunning && len(s.InitContainerStatuses) == 1 && s.InitContainerStatuses[0].RestartCount >= 1 &&
			s.InitContainerStatuses[0].State.Terminated != nil && s.ContainerStatuses[0].RestartCount >= 1
	})
	for _, name := range []string{"patient", "job", "ruled"} {
		h.delete(name)
	}
}
