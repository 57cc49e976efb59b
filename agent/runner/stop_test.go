package runner

import (
	"strings"

	v1 "k8s.io/api/core/v1"
)

// gracePod has hooks around its life, and is killed when its grace is over.
func gracePod(b *bed) {
	p := pod("stubborn", `trap 'echo told' TERM; echo args; while :; do sleep 1; done`, func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{
			PreStop:   &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "echo hook > /proc/1/fd/1"}}},
			PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "echo begun > /proc/1/fd/1"}}},
		}
	})
	b.runner.Set(p)
	b.wait(p, "ready after its hook", func(s v1.PodStatus) bool { return len(s.ContainerStatuses) > 0 && s.ContainerStatuses[0].Ready })
	b.runner.Set(deletion(p, 3600)) // the hook and the shell have as long as they need
	waitFor(b.t, "hooks and signal in the log", func() bool {
		out := b.logs(p, "main", 0)
		return strings.Contains(out, "F begun") && strings.Contains(out, "F hook") && strings.Contains(out, "F told")
	})
	b.runner.Set(deletion(p, 1))
	c := b.container(p, "main", "killed", func(c v1.ContainerStatus) bool { return c.State.Terminated != nil })
	if c.State.Terminated.ExitCode != 137 {
		b.t.Errorf("state: %+v", c.State.Terminated)
	}
	b.until(b.t, "gone", func() bool { return b.gone[p.UID] })
}
