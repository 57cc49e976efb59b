package runner

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

// dyingShim kills the shim that calls it, once for each file "kill" that is there.
const dyingShim = `
if [ "$verb" = create ] && rm $dir/kill 2>/dev/null; then
	kill -9 $PPID
	exit 1
fi`

// TestShimDiesAtCreate: a container whose shim ends while it is made is made again,
// whatever the restart policy; it was no attempt of the container's.
func TestShimDiesAtCreate(t *testing.T) {
	b := newBed(t)
	dir := b.wrap(t, dyingShim)
	never := func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever }
	first := pod("first", sleeper, wrapped, never, func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{container("init", "exit 0")}
	})
	put(t, dir, "kill")
	b.runner.Set(first)
	b.event(first, "Failed")
	b.phase(first, v1.PodRunning)
	s := b.last(first.UID)
	for _, c := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
		if c.RestartCount != 0 || c.LastTerminationState.Terminated != nil {
			t.Errorf("%s: %+v", c.Name, c)
		}
	}
	again := pod("again", `until stat /end; do sleep 0.05; done; exit 3`, wrapped)
	b.runner.Set(again)
	b.phase(again, v1.PodRunning)
	put(t, dir, "kill")
	b.run(again, "touch", "/end")
	b.event(again, "Failed")
	c := b.container(again, "main", "run again", func(c v1.ContainerStatus) bool { return c.RestartCount == 1 && running(c) })
	if l := c.LastTerminationState.Terminated; l == nil || l.ExitCode != 3 {
		t.Errorf("last state %+v", l)
	}
	b.remove(first, again)
}
