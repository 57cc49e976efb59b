package runner

import (
	"context"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// restartPod restarts at once, then backs off.
func restartPod(b *bed) {
	p := pod("crash", `echo attempt; exit 3`)
	b.runner.Set(p)
	c := b.container(p, "main", "back-off", waitingFor("CrashLoopBackOff"))
	if c.RestartCount != 1 || c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 3 ||
		c.LastTerminationState.Terminated.Reason != "Error" {
		b.t.Errorf("container status: %+v", c)
	}
	b.event(p, "BackOff")
	for attempt := range int32(2) {
		b.logged(p, "main", attempt, "attempt")
	}
	b.remove(p)
}

// policyPods end as their restart policies say, and hold nothing then.
func policyPods(b *bed) {
	for _, test := range []struct {
		name   string
		policy v1.RestartPolicy
		script string
		phase  v1.PodPhase
		code   int32
	}{
		{"never-ok", v1.RestartPolicyNever, "exit 0", v1.PodSucceeded, 0},
		{"never-bad", v1.RestartPolicyNever, "exit 7", v1.PodFailed, 7},
		{"onfailure", v1.RestartPolicyOnFailure, "exit 0", v1.PodSucceeded, 0},
	} {
		p := pod(test.name, test.script, func(p *v1.Pod) { p.Spec.RestartPolicy = test.policy })
		b.runner.Set(p)
		b.phase(p, test.phase)
		c := b.last(p.UID).ContainerStatuses[0]
		if c.State.Terminated == nil || c.State.Terminated.ExitCode != test.code || c.RestartCount != 0 {
			b.t.Errorf("%s: %+v", test.name, c)
		}
		waitFor(b.t, "resources of a finished pod", func() bool {
			attached, _ := b.network.Attached(context.Background())
			return !has(attached, string(p.UID))
		})
		b.logs(p, "main", 0)
		b.remove(p)
	}
}

// startErrorPod cannot be started: the reason is its last state.
func startErrorPod(b *bed) {
	p := pod("noexe", "", func(p *v1.Pod) { p.Spec.Containers[0].Command = []string{"/no/such"} })
	b.runner.Set(p)
	c := b.container(p, "main", "failed start", func(c v1.ContainerStatus) bool {
		return c.LastTerminationState.Terminated != nil && c.State.Waiting != nil
	})
	if l := c.LastTerminationState.Terminated; l.Reason != "StartError" || l.ExitCode != 128 || !strings.Contains(l.Message, "/no/such") {
		b.t.Errorf("last state: %+v", l)
	}
	b.container(p, "main", "back-off", waitingFor("CrashLoopBackOff"))
	b.remove(p)
}
