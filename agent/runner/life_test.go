package runner

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestLife has one containerd for all its parts; each has pods of its own.
func TestLife(t *testing.T) {
	b := newBed(t)
	for name, test := range map[string]func(*bed){
		"sidecars start before and stop after":      sidecarOrder,
		"a sidecar is restarted beside the mains":   sidecarRestart,
		"policies and rules of containers":          ruledPods,
		"all containers restart":                    restartAllPod,
		"an image changes in place":                 changedImage,
		"the first container's hook holds others":   holdingHook,
		"a postStart hook fails":                    failingHook,
		"grace is shortened while a hook runs":      shortenedGrace,
		"deleted while waiting for its image":       deletedWaiting,
		"deleted while its init container runs":     deletedInit,
		"a deadline with a sidecar":                 deadlineSidecar,
		"a container that ignores its stop signal":  deafPod,
		"conditions and container statuses in full": fullStatus,
	} {
		t.Run(name, func(t *testing.T) { test(b.with(t)) })
	}
}

func container(name, script string) v1.Container {
	return v1.Container{Name: name, Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"/bin/sh", "-c", script}}
}

func sidecar(name, script string) v1.Container {
	c := container(name, script)
	c.RestartPolicy = ptr(v1.ContainerRestartPolicyAlways)
	return c
}

// noting is a script that writes its steps to a volume all containers share.
func noting(name string) string {
	return `trap 'echo ` + name + `-stopped >> /data/log; exit 0' TERM; echo ` + name + ` >> /data/log; while :; do sleep 3600 & wait $!; done`
}

func shareData(p *v1.Pod) {
	p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	mount := []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
	for i := range p.Spec.InitContainers {
		p.Spec.InitContainers[i].VolumeMounts = mount
	}
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].VolumeMounts = mount
	}
}

func deletion(p *v1.Pod, seconds int64) *v1.Pod {
	out := p.DeepCopy()
	out.DeletionTimestamp, out.DeletionGracePeriodSeconds = ptr(metav1.Now()), &seconds
	return out
}

func running(c v1.ContainerStatus) bool { return c.State.Running != nil }

func sidecarOrder(b *bed) {
	// The last sidecar is told to stop last of all, so it sees the whole order.
	last := `trap 'cat /data/log; exit 0' TERM; echo outer >> /data/log; while :; do sleep 3600 & wait $!; done`
	p := pod("ordered", noting("main"), func(p *v1.Pod) {
		outer, inner := sidecar("outer", last), sidecar("inner", noting("inner"))
		outer.StartupProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 60, ProbeHandler: execProbe("stat /data/log")}
		inner.ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: execProbe("stat /data/ready")}
		inner.StartupProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 60, ProbeHandler: execProbe("grep inner /data/log")}
		p.Spec.InitContainers = []v1.Container{outer, container("between", "echo between >> /data/log"), inner}
		shareData(p)
	})
	b.runner.Set(p)
	st := b.wait(p, "running", func(s v1.PodStatus) bool {
		return s.Phase == v1.PodRunning && s.ContainerStatuses[0].Ready && s.InitContainerStatuses[2].State.Running != nil
	})
	if c := condition(st, v1.PodReady); c.Status != v1.ConditionFalse || c.Message != "containers with unready status: [inner]" {
		b.t.Errorf("an unready sidecar: %+v", c)
	}
	waitFor(b.t, "the main container to heed signals", func() bool { return strings.Contains(b.run(p, "cat", "/data/log"), "main") })
	b.run(p, "touch", "/data/ready")
	b.wait(p, "ready", func(s v1.PodStatus) bool { return condition(s, v1.PodReady).Status == v1.ConditionTrue })
	b.runner.Set(deletion(p, 3600))
	waitFor(b.t, "the order", func() bool { return strings.Contains(b.logs(p, "outer", 0), "inner-stopped") })
	var steps []string
	for _, line := range strings.Split(strings.TrimSpace(b.logs(p, "outer", 0)), "\n") {
		steps = append(steps, line[strings.LastIndexByte(line, ' ')+1:])
	}
	if got := strings.Join(steps, " "); got != "outer between inner main main-stopped inner-stopped" {
		b.t.Errorf("order: %s", got)
	}
	b.until(b.t, "gone", func() bool { return b.gone[p.UID] })
	if last := b.last(p.UID); last.Phase != v1.PodSucceeded {
		b.t.Errorf("last phase %s", last.Phase)
	}
}

func condition(s v1.PodStatus, kind v1.PodConditionType) v1.PodCondition {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return v1.PodCondition{}
}

func sidecarRestart(b *bed) {
	p := pod("beside", sleeper, func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{sidecar("side", `until stat /end; do sleep 0.05; done; exit 0`)}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	ref, _ := b.runner.Container(p.UID, "side")
	if _, _, err := b.runner.execOutput(b.t.Context(), ref.ID, []string{"touch", "/end"}, waitLimit); err != nil {
		b.t.Fatal(err)
	}
	b.container(p, "side", "restarted", func(c v1.ContainerStatus) bool { return c.RestartCount == 1 && running(c) })
	s := b.last(p.UID)
	if s.Phase != v1.PodRunning || condition(s, v1.PodInitialized).Status != v1.ConditionTrue || s.ContainerStatuses[0].RestartCount != 0 {
		b.t.Errorf("status: %+v", s)
	}
	b.remove(p)
}

func ruledPods(b *bed) {
	rule := func(op v1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) []v1.ContainerRestartRule {
		return []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestart, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}}
	}
	for _, test := range []struct {
		name   string
		pod    v1.RestartPolicy
		own    v1.ContainerRestartPolicy
		rules  []v1.ContainerRestartRule
		script string
		phase  v1.PodPhase // "" is a restart
	}{
		{"own-never", v1.RestartPolicyAlways, v1.ContainerRestartPolicyNever, nil, "exit 3", v1.PodFailed},
		{"own-onfailure", v1.RestartPolicyNever, v1.ContainerRestartPolicyOnFailure, nil, "exit 3", ""},
		{"own-onfailure-ok", v1.RestartPolicyAlways, v1.ContainerRestartPolicyOnFailure, nil, "exit 0", v1.PodSucceeded},
		{"rule-in", v1.RestartPolicyNever, v1.ContainerRestartPolicyNever, rule(v1.ContainerRestartRuleOnExitCodesOpIn, 42), "exit 42", ""},
		{"rule-other", v1.RestartPolicyNever, v1.ContainerRestartPolicyNever, rule(v1.ContainerRestartRuleOnExitCodesOpIn, 42), "exit 1", v1.PodFailed},
		{"rule-notin", v1.RestartPolicyNever, v1.ContainerRestartPolicyNever, rule(v1.ContainerRestartRuleOnExitCodesOpNotIn, 0), "exit 9", ""},
	} {
		p := pod(test.name, test.script, func(p *v1.Pod) {
			p.Spec.RestartPolicy = test.pod
			p.Spec.Containers[0].RestartPolicy, p.Spec.Containers[0].RestartPolicyRules = &test.own, test.rules
		})
		b.runner.Set(p)
		if test.phase != "" {
			b.phase(p, test.phase)
		} else {
			b.container(p, "main", "restarted", func(c v1.ContainerStatus) bool { return c.RestartCount > 0 })
			if s := b.last(p.UID); s.Phase != v1.PodRunning {
				b.t.Errorf("%s: phase %s", test.name, s.Phase)
			}
		}
		b.remove(p)
	}
}

func restartAllPod(b *bed) {
	p := pod("anew", sleeper, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		source := container("source", `until stat /data/end; do sleep 0.05; done; rm /data/end; exit 42`)
		source.RestartPolicy = ptr(v1.ContainerRestartPolicyNever)
		source.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
		p.Spec.Containers = append(p.Spec.Containers, source)
		p.Spec.InitContainers = []v1.Container{container("first", "echo x >> /data/runs"), sidecar("side", sleeper)}
		shareData(p)
	})
	b.runner.Set(p)
	before := b.wait(p, "running", func(s v1.PodStatus) bool { return s.Phase == v1.PodRunning && len(s.ContainerStatuses) == 2 })
	if c := condition(before, v1.AllContainersRestarting); c.Status != v1.ConditionFalse {
		b.t.Errorf("condition before: %+v", c)
	}
	shim := b.shimServing(p)
	b.run(p, "touch", "/data/end")
	for _, name := range []string{"first", "side", "main", "source"} {
		c := b.container(p, name, "anew", func(c v1.ContainerStatus) bool {
			return c.RestartCount == 1 && (running(c) || (name == "first" && c.State.Terminated != nil))
		})
		if l := c.LastTerminationState.Terminated; l == nil || l.Reason != "RestartingAllContainers" || l.ExitCode != 137 {
			b.t.Errorf("%s: last state %+v", name, l)
		}
	}
	b.wait(p, "past it", func(s v1.PodStatus) bool {
		return condition(s, v1.AllContainersRestarting).Status == v1.ConditionFalse && s.Phase == v1.PodRunning
	})
	if out := b.run(p, "cat", "/data/runs"); out != "x\nx\n" {
		b.t.Errorf("the init container ran: %q", out)
	}
	if now := b.shimServing(p); now != shim {
		b.t.Errorf("the pod's shim was process %d and is %d", shim, now)
	}
	b.remove(p)
}

func changedImage(b *bed) {
	p := pod("changes", sleeper, func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever })
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	changed := p.DeepCopy()
	changed.Spec.Containers[0].Image = testImage // the same by another name
	b.runner.Set(changed)
	c := b.container(p, "main", "replaced", func(c v1.ContainerStatus) bool { return c.RestartCount == 1 && running(c) })
	if l := c.LastTerminationState.Terminated; l == nil {
		b.t.Errorf("the container that was replaced left no trace: %+v", c)
	}
	if e := b.event(p, "Killing"); !strings.HasSuffix(e, "Container main definition changed, will be restarted") {
		b.t.Errorf("event %q", e)
	}
	b.remove(p)
}

func holdingHook(b *bed) {
	p := pod("holds", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "until stat /go; do sleep 0.05; done"}}}}
		p.Spec.Containers = append(p.Spec.Containers, container("second", sleeper))
	})
	b.runner.Set(p)
	b.event(p, "Started")
	waitFor(b.t, "the first container", func() bool { _, ok := b.runner.Container(p.UID, "main"); return ok })
	s := b.last(p.UID)
	if _, ok := b.runner.Container(p.UID, "second"); ok || s.Phase != v1.PodPending || s.ContainerStatuses[0].State.Waiting == nil {
		b.t.Errorf("while the hook runs: %+v", s)
	}
	b.run(p, "touch", "/go")
	b.phase(p, v1.PodRunning)
	b.remove(p)
}

func failingHook(b *bed) {
	p := pod("badhook", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "echo why; exit 5"}}}}
	})
	b.runner.Set(p)
	c := b.container(p, "main", "hook failed", waitingFor("PostStartHookError"))
	if m := c.State.Waiting.Message; !strings.Contains(m, `Exec lifecycle hook ([sh -c echo why; exit 5]) for Container "main" in Pod "badhook_test(`) || !strings.Contains(m, "why") {
		b.t.Errorf("message %q", m)
	}
	b.container(p, "main", "back-off", waitingFor("CrashLoopBackOff"))
	b.remove(p)
}

func shortenedGrace(b *bed) {
	p := pod("hurried", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 3600}}}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	b.runner.Set(deletion(p, 7200))
	b.event(p, "Killing")
	b.runner.Set(deletion(p, 1))
	b.until(b.t, "gone", func() bool { return b.gone[p.UID] })
	if c := b.last(p.UID).ContainerStatuses[0]; c.State.Terminated == nil {
		b.t.Errorf("last status: %+v", c.State)
	}
}

func deletedWaiting(b *bed) {
	p := pod("unpulled", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "nothere:1", v1.PullNever
	})
	b.runner.Set(p)
	b.container(p, "main", "waiting", waitingFor("ErrImageNeverPull"))
	b.remove(p)
	s := b.last(p.UID)
	if c := s.ContainerStatuses[0].State.Terminated; s.Phase != v1.PodFailed || c == nil || c.Reason != "ContainerStatusUnknown" || c.ExitCode != 137 {
		b.t.Errorf("last status: %+v", s)
	}
}

func deletedInit(b *bed) {
	p := pod("uninit", sleeper, func(p *v1.Pod) { p.Spec.InitContainers = []v1.Container{container("first", sleeper)} })
	b.runner.Set(p)
	b.container(p, "first", "running", running)
	b.remove(p)
	s := b.last(p.UID)
	// It ended well when told to, and the main container never was.
	if s.InitContainerStatuses[0].State.Terminated == nil || s.Phase != v1.PodFailed {
		b.t.Errorf("last status: %+v", s)
	}
}

func deadlineSidecar(b *bed) {
	p := pod("late", sleeper, lasting(3600), func(p *v1.Pod) { p.Spec.InitContainers = []v1.Container{sidecar("side", sleeper)} })
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	lasting(1)(p)
	b.runner.Set(p)
	b.phase(p, v1.PodFailed)
	s := b.last(p.UID)
	if s.Reason != reasonDeadline || s.InitContainerStatuses[0].State.Terminated == nil || s.ContainerStatuses[0].State.Terminated == nil {
		b.t.Errorf("status: %+v", s)
	}
	b.remove(p)
}

func deafPod(b *bed) {
	p := pod("deaf-main", `trap '' TERM; while :; do sleep 1; done`, func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{sidecar("side", `trap '' TERM; while :; do sleep 1; done`)}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	at := time.Now()
	b.remove(p)
	// Grace is one second, and each gets two after its signal.
	if took := time.Since(at); took < minGrace {
		b.t.Errorf("killed after %s", took)
	}
	s := b.last(p.UID)
	if c := s.ContainerStatuses[0].State.Terminated; s.Phase != v1.PodFailed || c == nil || c.ExitCode != 137 {
		b.t.Errorf("last status: %+v", s)
	}
}

func fullStatus(b *bed) {
	p := pod("full", sleeper, func(p *v1.Pod) {
		p.Generation = 3
		p.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "example.com/gate"}}
		p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: ptr(int64(7)), RunAsGroup: ptr(int64(8)), SupplementalGroups: []int64{9}}
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue}, {Type: "example.com/gate", Status: v1.ConditionFalse}}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	s := b.last(p.UID)
	var kinds []string
	for _, c := range s.Conditions {
		kinds = append(kinds, string(c.Type)+"="+string(c.Status))
		if c.Type != "example.com/gate" && (c.ObservedGeneration != 3 || (c.LastTransitionTime.IsZero() && c.Type != v1.PodScheduled)) {
			b.t.Errorf("condition %+v", c)
		}
	}
	if got := strings.Join(kinds, " "); got != "example.com/gate=False PodReadyToStartContainers=True Initialized=True Ready=False ContainersReady=True PodScheduled=True" {
		b.t.Errorf("conditions: %s", got)
	}
	if c := condition(s, v1.PodReady); c.Reason != "ReadinessGatesNotReady" || c.Message != `the status of pod readiness gate "example.com/gate" is not "True", but False` {
		b.t.Errorf("ready: %+v", c)
	}
	c := s.ContainerStatuses[0]
	if u := c.User; u == nil || u.Linux == nil || u.Linux.UID != 7 || u.Linux.GID != 8 || len(u.Linux.SupplementalGroups) == 0 {
		b.t.Errorf("user: %+v", u)
	}
	if s.ObservedGeneration != 3 || c.Started == nil || !*c.Started || c.LastTerminationState.Terminated != nil {
		b.t.Errorf("status: %+v", s)
	}
	open := p.DeepCopy()
	open.Status.Conditions[1].Status = v1.ConditionTrue
	b.runner.Set(open)
	b.wait(p, "ready", func(s v1.PodStatus) bool { return condition(s, v1.PodReady).Status == v1.ConditionTrue })
	b.remove(p)
}
