package runner

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/vishvananda/netlink"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/internal/testbed"
)

// cgroupsOf counts directories of the pod in all hierarchies.
func (b *bed) cgroupsOf(p *v1.Pod) int {
	return b.countDirs("/sys/fs/cgroup", string(p.UID))
}

func (b *bed) countDirs(base, part string) int {
	n := 0
	_ = filepath.WalkDir(base, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, part) {
			n++
		}
		return nil
	})
	return n
}

// counts is everything a pod takes from the host.
func (b *bed) counts() map[string]int {
	ctx := namespaces.WithNamespace(context.Background(), testbed.Namespace)
	out := map[string]int{}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, b.dir) || strings.Contains(line, b.ctrd.Socket[:len(b.ctrd.Socket)-len("/c.sock")]) {
			out["mounts"]++
		}
	}
	links, _ := netlink.LinkList()
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, b.network.LinkPrefix()) {
			out["veths"]++
		}
	}
	out["cgroups"] = b.countDirs("/sys/fs/cgroup", b.cgroup+"/")
	records, _ := b.ctrd.Client.ContainerService().List(ctx)
	out["containers"] = len(records)
	_ = b.ctrd.Client.SnapshotService("overlayfs").Walk(ctx, func(context.Context, snapshots.Info) error {
		out["snapshots"]++
		return nil
	})
	for _, dir := range []string{"net", "ns", "pods", "logs", "logs-made", "secrets", "fifo"} {
		entries, _ := os.ReadDir(filepath.Join(b.dir, dir))
		out["dir "+dir] = len(entries)
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range processes {
		text, _ := os.ReadFile(file)
		if strings.Contains(string(text), b.dir) || strings.Contains(string(text), b.ctrd.Socket) {
			out["processes"]++
		}
	}
	fds, _ := os.ReadDir("/proc/self/fd")
	out["file descriptors"] = len(fds)
	out["goroutines"] = runtime.NumGoroutine()
	return out
}

// TestNothingLeaks counts before and after 50 pods of two containers with
// every kind of thing a pod can hold.
func TestNothingLeaks(t *testing.T) {
	b := newBed(t)
	b.objects.secrets["test/s"] = &v1.Secret{Data: map[string][]byte{"k": []byte("v")}}
	// The first pod makes what stays for all: class groups, caches.
	make1 := func(name string) *v1.Pod {
		return pod(name, sleeper, func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{
				{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
				{Name: "sec", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s"}}},
				{Name: "img", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "box", PullPolicy: v1.PullIfNotPresent}}},
			}
			p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{
				{Name: "mem", MountPath: "/mem"}, {Name: "sec", MountPath: "/sec"}, {Name: "mem", MountPath: "/sub", SubPath: "a/b"}, {Name: "img", MountPath: "/img"},
			}
			second := *p.Spec.Containers[0].DeepCopy()
			second.Name = "other"
			p.Spec.Containers = append(p.Spec.Containers, second)
		})
	}
	warm := make1("warm")
	b.runner.Set(warm)
	b.phase(warm, v1.PodRunning)
	b.remove(warm)
	var before map[string]int
	waitFor(t, "a quiet start", func() bool {
		last := before
		before = b.counts()
		return maps.Equal(last, before)
	})
	var pods []*v1.Pod
	for i := range 50 {
		p := make1(fmt.Sprintf("leak%d", i))
		pods = append(pods, p)
		b.runner.Set(p)
	}
	for _, p := range pods {
		b.phase(p, v1.PodRunning)
	}
	if during := b.counts(); during["containers"] != before["containers"]+100 || during["veths"] != before["veths"]+50 {
		t.Errorf("counts do not see the pods: %v, before %v", during, before)
	}
	b.remove(pods...)
	var after map[string]int
	defer func() { t.Logf("before %v, after %v", before, after) }()
	waitFor(t, "counts to be as before", func() bool {
		after = b.counts()
		for what, n := range before {
			after[what] = max(after[what], n) // some of the start may have ended since
		}
		return maps.Equal(before, after) || t.Failed()
	})
}
