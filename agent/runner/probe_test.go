package runner

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func execProbe(script string) v1.ProbeHandler {
	return v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", script}}}
}

// TestProbesGone: what a probe's command starts ends with its timeout, also
// what holds its output open.
func TestProbesGone(t *testing.T) {
	b := newBed(t)
	p := pod("hangs", sleeper, func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.ReadinessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: execProbe("sleep 7654 & sleep 8765")}
		other := *c.DeepCopy()
		other.Name = "other"
		other.ReadinessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: execProbe("sleep 6543 & exit 0")}
		p.Spec.Containers = append(p.Spec.Containers, other)
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	// Of the shell of a probe that runs now nothing is counted, only its child.
	count := func(command string) int {
		lines := b.run(p, "sh", "-c", `for f in /proc/[0-9]*/cmdline; do tr '\0' ' ' < $f; echo; done 2>/dev/null`)
		return strings.Count("\n"+lines, "\n"+command+" \n")
	}
	waitFor(t, "the probe's processes", func() bool { return count("sleep 7654") > 0 })
	for range 2 {
		// An event for each: "timed out after 1s". The recorder of this test
		// keeps them all.
		b.record.mu.Lock()
		before := len(b.events)
		b.record.mu.Unlock()
		b.until(t, "a probe that timed out", func() bool {
			for _, e := range b.events[before:] {
				if strings.Contains(e, "sleep 8765\" timed out after 1s") {
					return true
				}
			}
			return false
		})
	}
	// A look at all processes takes longer than a probe where the host is busy: it
	// may see one of each of two. What is left over stays.
	waitFor(t, "processes of earlier probes to be gone", func() bool { return count("sleep 7654") <= 1 })
	b.remove(p)
}

// TestProbeGrace: a container that failed its liveness probe gets that probe's
// grace, not the pod's.
func TestProbeGrace(t *testing.T) {
	b := newBed(t)
	p := pod("deaf", `trap '' TERM; while :; do sleep 1; done`, func(p *v1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = ptr(int64(3600))
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.Containers[0].LivenessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, TerminationGracePeriodSeconds: ptr(int64(1)), ProbeHandler: execProbe("exit 1")}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodFailed)
	if e := b.event(p, "Killing"); !strings.HasSuffix(e, ": Container main failed liveness probe") {
		t.Errorf("event %q", e)
	}
	p.Spec.TerminationGracePeriodSeconds = ptr(int64(1))
	b.remove(p)
}

// probedPod becomes ready, then unwell and starts anew, as its probes say.
func probedPod(b *bed) {
	const patient = 120 // seconds: a command that takes long is no failure
	p := pod("probed", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: patient,
			ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"stat", "/ready"}}}}
		p.Spec.Containers[0].LivenessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: patient,
			ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "! stat /dead"}}}}
		p.Spec.Containers[0].StartupProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 3, TimeoutSeconds: patient,
			ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}}
	})
	ready := func(want bool) func(v1.PodStatus) bool {
		return func(s v1.PodStatus) bool {
			return len(s.ContainerStatuses) > 0 && s.ContainerStatuses[0].State.Running != nil && s.ContainerStatuses[0].Ready == want &&
				s.ContainerStatuses[0].Started != nil && *s.ContainerStatuses[0].Started
		}
	}
	b.runner.Set(p)
	b.wait(p, "started and not ready", ready(false))
	b.run(p, "touch", "/ready")
	b.wait(p, "ready", ready(true))
	b.run(p, "touch", "/dead")
	c := b.container(p, "main", "restarted", func(c v1.ContainerStatus) bool { return c.RestartCount == 1 && c.State.Running != nil })
	if c.LastTerminationState.Terminated == nil {
		b.t.Errorf("status: %+v", c)
	}
	b.event(p, "Unhealthy")
	b.remove(p)
	tcp := pod("tcp", sleeper, func(p *v1.Pod) {
		p.Spec.HostNetwork = true
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 10, ProbeHandler: v1.ProbeHandler{
			TCPSocket: &v1.TCPSocketAction{Host: "127.0.0.1", Port: intstr.FromInt32(1)}}}
	})
	b.runner.Set(tcp)
	b.phase(tcp, v1.PodRunning)
	if b.last(tcp.UID).ContainerStatuses[0].Ready {
		b.t.Error("ready though nothing listens")
	}
	b.remove(tcp)
}
