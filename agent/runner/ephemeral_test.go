package runner

import (
	"os"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/volume"
)

// debugged is the pod with an ephemeral container more, as `kubectl debug`
// changes it.
func debugged(p *v1.Pod, name, script, target string) *v1.Pod {
	out := p.DeepCopy()
	out.Generation++
	out.Spec.EphemeralContainers = append(out.Spec.EphemeralContainers, v1.EphemeralContainer{
		EphemeralContainerCommon: v1.EphemeralContainerCommon{
			Name: name, Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"/bin/sh", "-c", script},
		},
		TargetContainerName: target,
	})
	return out
}

// TestEphemeral adds ephemeral containers to a running pod, also over a
// restart of the daemon.
func TestEphemeral(t *testing.T) {
	b := newBed(t)
	p := pod("looked-at", sleeper, func(p *v1.Pod) {
		// The main container has none of it, so it is made for the first that does.
		p.Spec.Volumes = []v1.Volume{{Name: "spare", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	p = debugged(p, "once", "echo seen > /spare/x && exit 3", "")
	p.Spec.EphemeralContainers[0].VolumeMounts = []v1.VolumeMount{{Name: "spare", MountPath: "/spare"}}
	b.runner.Set(p)
	once := b.container(p, "once", "ended", func(c v1.ContainerStatus) bool { return c.State.Terminated != nil })
	if once.State.Terminated.ExitCode != 3 || once.Ready || once.Started != nil || once.RestartCount != 0 {
		t.Errorf("an ephemeral container that ended: %+v", once)
	}
	// It sees the processes of its target, whose command line has "sleep 3600".
	p = debugged(p, "look", "cat /proc/1/cmdline; echo; "+sleeper, "main")
	b.runner.Set(p)
	b.container(p, "look", "running", func(c v1.ContainerStatus) bool { return c.State.Running != nil })
	waitFor(t, "the target's command line", func() bool { return strings.Contains(b.logs(p, "look", 0), "sleep 3600") })
	before := b.last(p.UID)
	if before.Phase != v1.PodRunning || !before.ContainerStatuses[0].Ready || before.ObservedGeneration != p.Generation {
		t.Errorf("the pod looked at: %+v", before)
	}
	p = debugged(p, "nobody", sleeper, "missing")
	b.runner.Set(p)
	c := b.container(p, "nobody", "refused", waitingFor("CreateContainerConfigError"))
	if !strings.Contains(c.State.Waiting.Message, "unable to find target container missing") {
		t.Errorf("message: %s", c.State.Waiting.Message)
	}

	b.stop()
	p.Status = b.last(p.UID)
	b.record.mu.Lock()
	clear(b.status)
	b.record.mu.Unlock()
	b.start()
	b.runner.Set(p)
	look := b.container(p, "look", "adopted", func(c v1.ContainerStatus) bool { return c.State.Running != nil })
	if look.ContainerID != before.EphemeralContainerStatuses[0].ContainerID || look.RestartCount != 0 {
		t.Errorf("adopted: %+v, was %+v", look, before.EphemeralContainerStatuses[0])
	}
	again := b.container(p, "once", "adopted", func(c v1.ContainerStatus) bool { return c.State.Terminated != nil })
	if again.ContainerID != once.ContainerID {
		t.Errorf("it ran again: %+v", again)
	}
	b.remove(p)
}

// bareLook: a container that looks at a pod whose configuration is gone starts,
// with the volume that is its own.
func bareLook(b *bed) {
	b.objects.configMaps["test/bare"] = &v1.ConfigMap{Data: map[string]string{"k": "kept\n"}}
	from := func(name string) v1.Volume {
		return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: name}}}}
	}
	p := pod("bare", sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{from("bare"), from("never"), {Name: "spare", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "bare", MountPath: "/bare"}}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	delete(b.objects.configMaps, "test/bare")
	p = debugged(p, "stuck", sleeper, "")
	p.Spec.EphemeralContainers[0].VolumeMounts = []v1.VolumeMount{{Name: "never", MountPath: "/never"}}
	p = debugged(p, "look", "echo > /spare/x && cat /bare/k && exit 3", "")
	p.Spec.EphemeralContainers[1].VolumeMounts = []v1.VolumeMount{{Name: "bare", MountPath: "/bare"}, {Name: "spare", MountPath: "/spare"}}
	b.runner.Set(p)
	look := b.container(p, "look", "ended", func(c v1.ContainerStatus) bool { return c.State.Terminated != nil })
	if look.State.Terminated.ExitCode != 3 {
		b.t.Errorf("ended with %+v", look.State.Terminated)
	}
	waitFor(b.t, "what the volume has", func() bool { return strings.Contains(b.logs(p, "look", 0), "kept") })
	b.container(p, "stuck", "refused", waitingFor("CreateContainerConfigError"))
	b.remove(p)
}

// TestEphemeralRefresh: the token of a volume that comes with an ephemeral
// container is renewed in time, and what is due before stays so.
func TestEphemeralRefresh(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	volumes, err := volume.Open(t.TempDir(), &objects{})
	if err != nil {
		t.Fatal(err)
	}
	defer volumes.Close()
	p := debugged(pod("p", "", func(p *v1.Pod) {
		token := v1.VolumeProjection{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr(int64(1000))}}
		p.Spec.Volumes = []v1.Volume{{Name: "token", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{token}}}}}
	}), "look", "", "")
	c := &p.Spec.EphemeralContainers[0].EphemeralContainerCommon
	c.VolumeMounts = []v1.VolumeMount{{Name: "token", MountPath: "/token"}}
	defer func() { _ = volumes.Teardown(t.Context(), string(p.UID)) }()
	soon := time.Now().Add(time.Second)
	for _, due := range []time.Time{{}, soon} {
		w := &worker{r: &Runner{Options: Options{Volumes: volumes}}, refresh: refresh{due: due}}
		if err := w.makeVolumes(t.Context(), p, &slot{spec: (*v1.Container)(c)}); err != nil {
			t.Fatal(err)
		}
		want := soon
		if due.IsZero() {
			want = volumes.RefreshAt(p.UID)
		}
		if want.IsZero() || !w.refresh.due.Equal(want) {
			t.Errorf("due at %v, want %v", w.refresh.due, want)
		}
	}
}
