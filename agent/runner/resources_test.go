package runner

import (
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// podPIDs is what a pod of these tests may have: more than any needs, and
// soon reached by one that forks without end.
const podPIDs = 200

// forkBomb is held to its pod: its shell cannot fork any more, and the pod
// beside it starts and runs.
func forkBomb(b *bed) {
	bomb := pod("bomb", `echo start; while :; do sleep 3600 & done`, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
	})
	b.runner.Set(bomb)
	waitFor(b.t, "the bomb to meet its bound", func() bool {
		if b.last(bomb.UID).Phase == v1.PodFailed {
			return true // the shell gave up
		}
		pids, err := b.runner.Cgroups.PIDs(b.runner.Cgroups.PodPath(v1.PodQOSBestEffort, string(bomb.UID)))
		return err == nil && pids.Current == podPIDs
	})
	other := pod("beside", sleeper)
	b.runner.Set(other)
	b.phase(other, v1.PodRunning)
	b.remove(bomb, other)
}

// oomChild loses a child to a lack of memory and goes on: once it ends, that is
// told, whatever it ends with.
func oomChild(b *bed) {
	p := pod("oomchild", `tail /dev/zero; echo went on; exit 3`, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("16Mi")}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodFailed)
	s := b.last(p.UID).ContainerStatuses[0].State.Terminated
	if s == nil || s.Reason != "OOMKilled" {
		b.t.Errorf("state: %+v", s)
	}
	// With cgroup v2 the whole container goes.
	if !b.runner.Cgroups.Unified() {
		if s.ExitCode != 3 {
			b.t.Errorf("the container did not go on: %+v", s)
		}
		b.logged(p, "main", 0, "went on")
	}
	b.remove(p)
}

// oomPod dies of its memory limit.
func oomPod(b *bed) {
	p := pod("oom", `tail /dev/zero`, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.Containers[0].Command = []string{"tail", "/dev/zero"}
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("16Mi")}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodFailed)
	if s := b.last(p.UID).ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
		b.t.Errorf("state: %+v", s)
	}
	b.remove(p)
}

// limitedPod's limits are those of its control groups.
func limitedPod(b *bed) {
	p := pod("limits", sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].Resources = v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")},
			Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("32Mi")},
		}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	if b.runner.Cgroups.Unified() {
		b.t.Skip("reads cgroup v1 files; the v2 values have a unit test")
	}
	ref, _ := b.runner.Container(p.UID, "main")
	group := b.runner.Cgroups.PodPath(v1.PodQOSBurstable, string(p.UID))
	for _, dir := range []string{group, filepath.Join(group, ref.ID)} {
		for file, want := range map[string]string{"cpu/%/cpu.shares": "256", "cpu/%/cpu.cfs_quota_us": "50000", "memory/%/memory.limit_in_bytes": "33554432"} {
			data, err := os.ReadFile("/sys/fs/cgroup/" + strings.Replace(file, "%", dir, 1))
			if err != nil || strings.TrimSpace(string(data)) != want {
				b.t.Errorf("%s of %s is %q (%v), want %s", file, dir, data, err, want)
			}
		}
	}
	b.remove(p)
}
