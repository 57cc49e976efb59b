package runner

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/agent/volume"
)

func hostDir(name, path string) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path}}}
}

// mountedPod has every way to mount a volume.
func mountedPod(b *bed) {
	host := b.t.TempDir()
	shared := filepath.Join(host, "shared")
	for _, dir := range []string{shared, filepath.Join(host, "tree/below"), filepath.Join(host, "data/sub")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, dir := range []string{shared, filepath.Join(host, "tree/below")} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		b.t.Fatal(err)
	}
	both, onlyIn, deep := v1.MountPropagationBidirectional, v1.MountPropagationHostToContainer, v1.RecursiveReadOnlyEnabled
	p := pod("mounted", `echo sub > /sub/x; echo args; `+sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{hostDir("shared", shared), hostDir("tree", filepath.Join(host, "tree")), hostDir("data", filepath.Join(host, "data"))}
		c := &p.Spec.Containers[0]
		c.SecurityContext = &v1.SecurityContext{Privileged: ptr(true)}
		c.Env = []v1.EnvVar{{Name: "WHO", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
		c.VolumeMounts = []v1.VolumeMount{
			{Name: "shared", MountPath: "/both", MountPropagation: &both}, {Name: "shared", MountPath: "/in", MountPropagation: &onlyIn},
			{Name: "shared", MountPath: "/none"},
			{Name: "tree", MountPath: "/ro", ReadOnly: true}, {Name: "tree", MountPath: "/rro", ReadOnly: true, RecursiveReadOnly: &deep},
			{Name: "data", MountPath: "/sub", SubPathExpr: "logs/$(WHO)"},
		}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	for path, want := range map[string]string{"/ro/x": "1", "/ro/below/x": "0", "/rro/x": "1", "/rro/below/x": "1"} {
		if got := b.run(p, "sh", "-c", "touch "+path+" 2>/dev/null; echo $?"); strings.TrimSpace(got) != want {
			b.t.Errorf("touch %s: code %s, want %s", path, got, want)
		}
	}
	waitFor(b.t, "a file by way of subPathExpr", func() bool {
		data, _ := os.ReadFile(filepath.Join(host, "data/logs/mounted/x"))
		return string(data) == "sub\n"
	})
	// From the host into the container, and out of it.
	for _, dir := range []string{"out", "inner"} {
		if err := os.Mkdir(filepath.Join(shared, dir), 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", filepath.Join(shared, "out"), "tmpfs", 0, ""); err != nil {
		b.t.Fatal(err)
	}
	b.run(p, "mount", "-t", "tmpfs", "tmpfs", "/both/inner")
	seen := b.run(p, "cat", "/proc/mounts")
	for line, want := range map[string]bool{"/both/out ": true, "/in/out ": true, "/none/out ": false, "/in/inner ": true, "/none/inner ": false} {
		if strings.Contains(seen, line) != want {
			b.t.Errorf("%s in the container: want %t in\n%s", line, want, seen)
		}
	}
	if !volume.IsMountPoint(filepath.Join(shared, "inner")) {
		b.t.Error("a mount in the container did not reach the host")
	}
	st := b.last(p.UID).ContainerStatuses[0].VolumeMounts
	if len(st) != 6 || *st[4].RecursiveReadOnly != v1.RecursiveReadOnlyEnabled || *st[3].RecursiveReadOnly != v1.RecursiveReadOnlyDisabled || st[5].RecursiveReadOnly != nil {
		b.t.Errorf("volumeMounts of the status: %+v", st)
	}
	b.remove(p)
	if _, err := os.Stat(filepath.Join(host, "data/logs/mounted/x")); err != nil {
		b.t.Errorf("what a path in a volume was bound to went with the pod: %v", err)
	}
}

// unmountablePods say why in the kubelet's words.
func unmountablePods(b *bed) {
	private := b.t.TempDir()
	if err := unix.Mount("tmpfs", private, "tmpfs", 0, ""); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = unix.Unmount(private, unix.MNT_DETACH) })
	if err := unix.Mount("", private, "", unix.MS_PRIVATE, ""); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(private, "link")); err != nil {
		b.t.Fatal(err)
	}
	both := v1.MountPropagationBidirectional
	for name, test := range map[string]struct {
		mount          v1.VolumeMount
		reason, wanted string
	}{
		"private":  {v1.VolumeMount{MountPropagation: &both}, reasonCreateError, `is mounted on "` + private + `" but it is not a shared mount`},
		"escaping": {v1.VolumeMount{SubPath: "link"}, reasonConfigError, `failed to prepare subPath for volumeMount "v" of container "main"`},
		"unset":    {v1.VolumeMount{SubPathExpr: "$(B)/$(A)"}, reasonConfigError, "missing value for A, B"},
	} {
		p := pod("mount-"+name, sleeper, func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{hostDir("v", private)}
			test.mount.Name, test.mount.MountPath = "v", "/v"
			p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{test.mount}
		})
		b.runner.Set(p)
		c := b.container(p, "main", "refused", waitingFor(test.reason))
		if !strings.Contains(c.State.Waiting.Message, test.wanted) {
			b.t.Errorf("%s: want %q, got %q", name, test.wanted, c.State.Waiting.Message)
		}
		b.remove(p)
	}
	gone := pod("mount-gone", sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{hostDir("v", filepath.Join(private, "x"))}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v"}}
		p.Spec.Volumes[0].HostPath.Type = ptr(v1.HostPathDirectory)
	})
	b.runner.Set(gone)
	b.container(gone, "main", "waits", waitingFor(reasonCreating))
	if e := b.event(gone, "FailedMount"); !strings.Contains(e, `MountVolume.SetUp failed for volume "v" : hostPath type check failed`) {
		b.t.Errorf("event %q", e)
	}
	if err := os.Mkdir(filepath.Join(private, "x"), 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.phase(gone, v1.PodRunning) // without being asked again
	b.remove(gone)
}

// imageVolumePods have the files of an image as a volume, also after the
// daemon came back.
func imageVolumePods(b *bed) {
	withImage := func(name, ref string, policy v1.PullPolicy) *v1.Pod {
		return pod(name, sleeper, func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "img", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: ref, PullPolicy: policy}}}}
			p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "img", MountPath: "/img"}, {Name: "img", MountPath: "/part", SubPath: "bin"}}
		})
	}
	p := withImage("image", "box", v1.PullIfNotPresent)
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	if out := b.run(p, "/img/bin/busybox", "ls", "/part"); !strings.Contains(out, "busybox") {
		b.t.Errorf("the image's files: %q", out)
	}
	if out := b.run(p, "sh", "-c", "touch /img/x 2>&1; touch /part/x 2>&1; true"); strings.Count(out, "Read-only") != 2 {
		b.t.Errorf("an image volume could be written: %q", out)
	}
	absent := withImage("image-absent", "nowhere.invalid/x", v1.PullNever)
	b.runner.Set(absent)
	b.container(absent, "main", "waits for the volume's image", waitingFor(reasonNeverPull))
	b.remove(absent)
	b.stop()
	b.start()
	b.runner.Set(p)
	waitFor(b.t, "the container to be adopted", func() bool {
		_, ok := b.runner.Container(p.UID, "main")
		return ok
	})
	if out := b.run(p, "ls", "/img"); !strings.Contains(out, "bin") {
		b.t.Errorf("after a restart of the daemon: %q", out)
	}
	b.remove(p)
	if n := b.counts()["dir pods"]; n != 0 {
		b.t.Errorf("%d pods left on disk", n)
	}
	_, err := b.runner.Client.SnapshotService("overlayfs").Stat(b.runner.ctx, imageVolumeKey(string(p.UID), "img"))
	if !errdefs.IsNotFound(err) {
		b.t.Errorf("the volume's snapshot is left: %v", err)
	}
}

// device is a Driver of claims whose volume is a device.
type device struct{ path string }

func (d device) Setup(context.Context, *volume.Request) (volume.Mounted, error) {
	return volume.Mounted{Path: d.path, Block: true}, nil
}

func (device) Teardown(context.Context, string, string, string) error { return nil }

// blockPod has a device that no container has otherwise.
func blockPod(b *bed) {
	const path = "/dev/loop-control"
	if _, err := os.Stat(path); err != nil {
		b.t.Skip(err)
	}
	block := v1.PersistentVolumeBlock
	b.objects.pv = &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: v1.PersistentVolumeSpec{
		VolumeMode: &block, PersistentVolumeSource: v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{}},
	}}
	b.runner.Volumes.Register(volume.KindCSI, device{path})
	p := pod("block", sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
		p.Spec.Containers[0].VolumeDevices = []v1.VolumeDevice{{Name: "v", DevicePath: "/dev/mine"}}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	b.run(p, "sh", "-c", "test -c /dev/mine && exec 3<>/dev/mine")
	b.remove(p)
}

// vanishedPod runs on when its volume is gone and the daemon comes back; what
// is wrong is said, and nothing is made in the volume's place.
func vanishedPod(b *bed) {
	data := filepath.Join(b.t.TempDir(), "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		b.t.Fatal(err)
	}
	p := pod("vanished", sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{hostDir("v", data)}
		p.Spec.Volumes[0].HostPath.Type = ptr(v1.HostPathDirectory)
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v"}}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	before := b.last(p.UID).ContainerStatuses[0].ContainerID
	b.stop()
	if err := os.Remove(data); err != nil {
		b.t.Fatal(err)
	}
	b.start()
	b.runner.Set(p)
	b.event(p, "FailedMount")
	if _, err := os.Stat(data); err == nil {
		b.t.Error("the vanished directory was made again")
	}
	b.run(p, "ls", "/v")
	if now := b.last(p.UID).ContainerStatuses[0]; now.ContainerID != before || now.State.Running == nil {
		b.t.Errorf("the container did not run on: %+v", now)
	}
	b.remove(p)
}

// soonPod mounts what is there a little later than the pod: nobody is told.
func soonPod(b *bed) {
	b.objects.asked.Store(0)
	b.objects.configMaps["test/soon"] = &v1.ConfigMap{Data: map[string]string{"k": "v"}}
	p := pod("soon", sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "c", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "soon"}}}}}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "c", MountPath: "/c"}}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	if n := b.objects.asked.Load(); n < 4 {
		b.t.Errorf("asked %d times", n)
	}
	b.record.mu.Lock()
	for _, e := range b.events {
		if strings.HasPrefix(e, p.Name+" FailedMount: ") {
			b.t.Errorf("event %q", e)
		}
	}
	b.record.mu.Unlock()
	b.remove(p)
}
