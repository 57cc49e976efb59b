package runner

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// comeback ends the runner and starts another, which is told of the pods as
// the API last heard of them. between happens while no daemon runs.
func (b *bed) comeback(between func(), pods ...*v1.Pod) {
	b.t.Helper()
	b.stop()
	for _, p := range pods {
		p.Status = b.last(p.UID)
	}
	b.record.mu.Lock()
	clear(b.status)
	b.events = nil
	b.record.mu.Unlock()
	if between != nil {
		between()
	}
	b.start()
	for _, p := range pods {
		b.runner.Set(p)
	}
}

// TestBackOffOverRestart: a container that keeps dying waits as long as it
// would have.
func TestBackOffOverRestart(t *testing.T) {
	b := newBed(t)
	p := pod("crashes", "exit 1")
	b.runner.Set(p)
	b.container(p, "main", "back-off", waitingFor("CrashLoopBackOff"))
	b.comeback(nil, p)
	c := b.container(p, "main", "back-off", waitingFor("CrashLoopBackOff"))
	if c.RestartCount != 1 || !strings.HasPrefix(c.State.Waiting.Message, "back-off 10s restarting failed container=main pod=crashes_test(") {
		t.Errorf("after the daemon's restart: %+v", c)
	}
	b.remove(p)
}

// TestReboot: the sandboxes and processes are gone, containerd's records and the
// API's objects are not.
func TestReboot(t *testing.T) {
	b := newBed(t)
	withInit := func(policy v1.RestartPolicy) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.RestartPolicy = policy
			p.Spec.InitContainers = []v1.Container{container("first", "exit 0"), sidecar("side", sleeper)}
		}
	}
	again, once := pod("again", sleeper, withInit(v1.RestartPolicyAlways)), pod("once", sleeper, withInit(v1.RestartPolicyNever))
	for _, p := range []*v1.Pod{again, once} {
		b.runner.Set(p)
		b.phase(p, v1.PodRunning)
	}
	b.comeback(func() { b.reboot(again, once) }, again, once)
	for _, name := range []string{"first", "side", "main"} {
		c := b.container(again, name, "run again", func(c v1.ContainerStatus) bool {
			return c.RestartCount == 1 && (running(c) || c.State.Terminated != nil)
		})
		if c.LastTerminationState.Terminated == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
	b.phase(again, v1.PodRunning)
	b.phase(once, v1.PodFailed)
	if c := b.last(once.UID).ContainerStatuses[0]; c.RestartCount != 0 || c.State.Terminated == nil || c.State.Terminated.ExitCode != exitKilled {
		t.Errorf("a pod that is not restarted: %+v", c)
	}
	b.remove(again, once)
}

// reboot takes away what does not outlive one.
func (b *bed) reboot(pods ...*v1.Pod) {
	b.t.Helper()
	ctx := namespaces.WithNamespace(context.Background(), b.runner.Namespace)
	for _, p := range pods {
		records, err := b.ctrd.Client.ContainerService().List(ctx, `labels."`+labelPodUID+`"=="`+string(p.UID)+`"`)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, record := range records {
			b.runner.killTask(ctx, record.ID)
			_, _ = b.ctrd.Client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: record.ID})
		}
		if err := b.runner.pins.drop(string(p.UID)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestDeathInHooks: the daemon dies while hooks run.
func TestDeathInHooks(t *testing.T) {
	b := newBed(t)
	hooked := func(l *v1.Lifecycle) func(*v1.Pod) {
		return func(p *v1.Pod) { p.Spec.Containers[0].Lifecycle = l }
	}
	begins := pod("begins", sleeper, hooked(&v1.Lifecycle{PostStart: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 3600}}}))
	ends := pod("ends", sleeper, hooked(&v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 3600}}}))
	b.runner.Set(begins)
	b.event(begins, "Started")
	b.runner.Set(ends)
	b.phase(ends, v1.PodRunning)
	ends = deletion(ends, 3600)
	b.runner.Set(ends)
	b.event(ends, "Killing")
	b.comeback(nil, begins, ends)
	// A hook is not run twice: the container counts as running.
	b.phase(begins, v1.PodRunning)
	b.event(ends, "Killing")
	b.runner.Set(deletion(ends, 1))
	b.until(t, "gone", func() bool { return b.gone[ends.UID] })
	b.remove(begins)
}

// TestPhase has the rules of the kubelet's getPhase in a table.
func TestPhase(t *testing.T) {
	ended := func(code int32) v1.ContainerStatus {
		return v1.ContainerStatus{State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: code}}}
	}
	up := v1.ContainerStatus{Started: ptr(true), State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}
	starting := v1.ContainerStatus{Started: ptr(false), State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}
	waits := v1.ContainerStatus{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}}}
	backsOff := func(code int32) v1.ContainerStatus {
		c := waits
		c.LastTerminationState = ended(code).State
		return c
	}
	type set struct{ init, side, one, two *v1.ContainerStatus }
	at := func(c v1.ContainerStatus) *v1.ContainerStatus { return &c }
	for _, test := range []struct {
		name        string
		policy      v1.RestartPolicy
		is          set
		over, begun bool
		want        v1.PodPhase
	}{
		{"nothing known", v1.RestartPolicyAlways, set{}, false, false, v1.PodPending},
		{"all run", v1.RestartPolicyAlways, set{one: &up, two: &up}, false, true, v1.PodRunning},
		{"one waits", v1.RestartPolicyAlways, set{one: &up, two: &waits}, false, true, v1.PodPending},
		{"one backs off", v1.RestartPolicyAlways, set{one: &up, two: at(backsOff(1))}, false, true, v1.PodRunning},
		{"all back off", v1.RestartPolicyOnFailure, set{one: at(backsOff(1)), two: at(backsOff(1))}, false, true, v1.PodRunning},
		{"one failed of two", v1.RestartPolicyNever, set{one: at(ended(1)), two: &up}, false, true, v1.PodRunning},
		{"both ended", v1.RestartPolicyNever, set{one: at(ended(1)), two: at(ended(0))}, false, true, v1.PodFailed},
		{"both well", v1.RestartPolicyNever, set{one: at(ended(0)), two: at(ended(0))}, false, true, v1.PodSucceeded},
		{"on failure, well", v1.RestartPolicyOnFailure, set{one: at(ended(0)), two: at(ended(0))}, false, true, v1.PodSucceeded},
		{"always, well", v1.RestartPolicyAlways, set{one: at(ended(0)), two: at(ended(0))}, false, true, v1.PodRunning},
		{"always, well and over", v1.RestartPolicyAlways, set{one: at(ended(0)), two: at(ended(0))}, true, true, v1.PodSucceeded},
		{"always, badly and over", v1.RestartPolicyAlways, set{one: at(ended(0)), two: at(ended(2))}, true, true, v1.PodFailed},
		{"init runs", v1.RestartPolicyAlways, set{init: &up, one: &waits, two: &waits}, false, false, v1.PodPending},
		{"init failed", v1.RestartPolicyNever, set{init: at(ended(1)), one: &waits, two: &waits}, false, false, v1.PodFailed},
		{"init is tried again", v1.RestartPolicyAlways, set{init: at(backsOff(1)), one: &waits, two: &waits}, false, false, v1.PodPending},
		{"a sidecar starts", v1.RestartPolicyAlways, set{init: at(ended(0)), side: &starting, one: &waits, two: &waits}, false, false, v1.PodPending},
		{"a sidecar starts again", v1.RestartPolicyAlways, set{init: at(ended(0)), side: &starting, one: &up, two: &up}, false, true, v1.PodRunning},
		{"a sidecar outlives the rest", v1.RestartPolicyNever, set{init: at(ended(0)), side: &up, one: at(ended(0)), two: at(ended(0))}, false, true, v1.PodRunning},
		{"a sidecar ended last", v1.RestartPolicyNever, set{init: at(ended(0)), side: at(ended(137)), one: at(ended(0)), two: at(ended(0))}, false, true, v1.PodSucceeded},
	} {
		p := pod("p", "", func(p *v1.Pod) {
			p.Spec.RestartPolicy = test.policy
			p.Spec.Containers = []v1.Container{container("one", ""), container("two", "")}
		})
		var st v1.PodStatus
		add := func(to *[]v1.ContainerStatus, name string, c *v1.ContainerStatus) {
			if c != nil {
				named := *c
				named.Name = name
				*to = append(*to, named)
			}
		}
		if test.is.init != nil {
			p.Spec.InitContainers = append(p.Spec.InitContainers, container("init", ""))
		}
		if test.is.side != nil {
			p.Spec.InitContainers = append(p.Spec.InitContainers, sidecar("side", ""))
		}
		add(&st.InitContainerStatuses, "init", test.is.init)
		add(&st.InitContainerStatuses, "side", test.is.side)
		add(&st.ContainerStatuses, "one", test.is.one)
		add(&st.ContainerStatuses, "two", test.is.two)
		if got := phaseOf(p, &st, test.over, test.begun); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// TestBackoff follows the account of a container that keeps dying.
func TestBackoff(t *testing.T) {
	var b backoff
	at := time.Now()
	var waits []string
	for range 8 {
		end := at.Add(time.Second)
		start := end
		if u := b.until(end); !u.IsZero() {
			start = u
		}
		waits = append(waits, start.Sub(end).String())
		b.next(end, start)
		at = start
	}
	if got := strings.Join(waits, " "); got != "0s 10s 20s 40s 1m20s 2m40s 5m0s 5m0s" {
		t.Errorf("waits: %s", got)
	}
	if u := b.until(at.Add(backoffReset + time.Minute)); !u.IsZero() {
		t.Errorf("a container that ran for long waits until %s", u)
	}
}

// TestForeignConditions: what others write stays, and comes first.
func TestForeignConditions(t *testing.T) {
	p := pod("p", "")
	p.UID = uuid.NewUUID()
	old := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	p.Status.Conditions = []v1.PodCondition{
		{Type: v1.PodReady, Status: v1.ConditionFalse, LastTransitionTime: old},
		{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: "EvictionByEvictionAPI"},
	}
	w := &worker{r: &Runner{Options: Options{NodeIPs: func() []netip.Addr { return nil }}}}
	w.follow(p)
	st := w.base(p)
	w.fillContainers(p, &st)
	got := w.conditions(p, &p.Status, &st)
	if got[0].Type != v1.DisruptionTarget || got[0].Reason != "EvictionByEvictionAPI" {
		t.Errorf("first condition: %+v", got[0])
	}
	for _, c := range got {
		if c.Type == v1.PodReady && !c.LastTransitionTime.Equal(&old) {
			t.Errorf("a condition that did not change: %+v", c)
		}
	}
}
