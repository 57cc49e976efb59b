package runner

import (
	v1 "k8s.io/api/core/v1"
)

// lastWordsPod says why it ends, in its file or in its log.
func lastWordsPod(b *bed) {
	p := pod("words", `echo goodbye > /dev/termination-log; exit 1`, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.Containers[0].TerminationMessagePath = "/dev/termination-log"
		second := *p.Spec.Containers[0].DeepCopy()
		second.Name, second.Command = "logs", []string{"sh", "-c", "echo from the log; exit 1"}
		second.TerminationMessagePolicy = v1.TerminationMessageFallbackToLogsOnError
		p.Spec.Containers = append(p.Spec.Containers, second)
	})
	b.runner.Set(p)
	b.phase(p, v1.PodFailed)
	// The statuses are sorted by name.
	for i, want := range []string{"from the log\n", "goodbye\n"} {
		if got := b.last(p.UID).ContainerStatuses[i].State.Terminated.Message; got != want {
			b.t.Errorf("message %q, want %q", got, want)
		}
	}
	b.remove(p)
}
