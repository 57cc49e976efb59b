package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func ptr[T any](v T) *T { return &v }

// TestRunner runs the subtests on one containerd; each has pods of its own.
func TestRunner(t *testing.T) {
	b := newBed(t)
	for name, test := range map[string]func(*bed){
		"status of a running pod":        runningPod,
		"environment and identity":       environmentPod,
		"environments beyond memory":     bombPods,
		"volumes":                        volumesPod,
		"ways to mount":                  mountedPod,
		"what cannot be mounted":         unmountablePods,
		"block devices":                  blockPod,
		"containers share a pod":         sharingPod,
		"init containers":                initPod,
		"restart and back-off":           restartPod,
		"policies end a pod":             policyPods,
		"memory limit":                   oomPod,
		"memory limit met by a child":    oomChild,
		"fork bomb":                      forkBomb,
		"failed start":                   startErrorPod,
		"missing configuration":          configErrorPod,
		"missing images":                 imagePods,
		"pulls":                          pullPods,
		"unsupported volume":             unsupportedPod,
		"grace and hooks":                gracePod,
		"probes":                         probedPod,
		"limits are cgroup limits":       limitedPod,
		"security":                       securedPod,
		"exec":                           execPod,
		"removed without a delete first": removedPod,
		"rejected by admission":          rejectedPod,
		"last words":                     lastWordsPod,
		"last words that come late":      lateWordsPod,
		"sidecars stop last":             sidecarPod,
		"too little memory to start":     starvedPod,
		"what comes in a moment":         soonPod,
		"a stop signal of its own":       stopSignalPod,
		"looked at without its objects":  bareLook,
	} {
		t.Run(name, func(t *testing.T) { test(b.with(t)) })
	}
}

// runningPod has the whole status of one that runs, and leaves no logs.
func runningPod(b *bed) {
	p := pod("running", "echo hello; "+sleeper)
	p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue}}
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	st := b.last(p.UID)
	c := st.ContainerStatuses[0]
	if c.State.Running == nil || !c.Ready || c.RestartCount != 0 || !strings.HasPrefix(c.ContainerID, "containerd://") ||
		c.Image != testImage || !strings.HasPrefix(c.ImageID, "sha256:") {
		b.t.Errorf("container status: %+v", c)
	}
	if st.HostIP != "192.0.2.1" || st.PodIP == "" || st.StartTime == nil || st.QOSClass != v1.PodQOSBestEffort {
		b.t.Errorf("pod status: %+v", st)
	}
	conditions := map[v1.PodConditionType]v1.ConditionStatus{}
	for _, c := range st.Conditions {
		conditions[c.Type] = c.Status
	}
	for _, kind := range []v1.PodConditionType{v1.PodScheduled, v1.PodInitialized, v1.PodReady, v1.ContainersReady, v1.PodReadyToStartContainers} {
		if conditions[kind] != v1.ConditionTrue {
			b.t.Errorf("condition %s is %q", kind, conditions[kind])
		}
	}
	for _, reason := range []string{"Pulled", "Created", "Started"} {
		b.event(p, reason)
	}
	b.remove(p)
	if _, err := os.Stat(LogDir(filepath.Join(b.dir, "logs"), p)); !os.IsNotExist(err) {
		b.t.Errorf("logs of a deleted pod are still there: %v", err)
	}
}

// removedPod goes without being deleted first.
func removedPod(b *bed) {
	p := pod("forced", sleeper)
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	b.runner.Remove(p.UID)
	b.until(b.t, "gone", func() bool { return b.gone[p.UID] })
}

// rejectedPod is not admitted.
func rejectedPod(b *bed) {
	p := pod("big", sleeper)
	reject := map[types.UID]bool{p.UID: true}
	admit := b.runner.Admit
	b.runner.Admit = func(p *v1.Pod) (string, string) {
		if reject[p.UID] {
			return "OutOfcpu", "too big"
		}
		return "", ""
	}
	defer func() { b.runner.Admit = admit }()
	b.runner.Set(p)
	b.phase(p, v1.PodFailed)
	if st := b.last(p.UID); st.Reason != "OutOfcpu" || !strings.Contains(st.Message, "too big") {
		b.t.Errorf("status: %+v", st)
	}
	b.remove(p)
}

// remove1 checks the log of a pod of one container once its script is past
// its output, then removes the pod.
func (b *bed) remove1(p *v1.Pod, check func(string)) {
	b.t.Helper()
	b.run(p, "true") // the script's output precedes its sleep by far; this is a round trip later
	waitFor(b.t, "log of "+p.Name, func() bool { return strings.Contains(b.logs(p, "main", 0), "F args") })
	check(b.logs(p, "main", 0))
	b.remove(p)
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
