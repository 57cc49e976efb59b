package runner

import (
	"strings"

	v1 "k8s.io/api/core/v1"
)

// sharingPod's containers share network, memory and a volume, and one shim.
func sharingPod(b *bed) {
	p := pod("share", `echo from-main > /data/x; hostname > /dev/shm/h; httpd -p 127.0.0.1:8080 -h /data; echo args; `+sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		mount := []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
		p.Spec.Containers[0].VolumeMounts = mount
		other := *p.Spec.Containers[0].DeepCopy()
		other.Name = "other"
		other.Command = []string{"sh", "-c", `until wget -qO- http://127.0.0.1:8080/x; do sleep 0.1; done; cat /dev/shm/h; echo args; ` + sleeper}
		p.Spec.Containers = append(p.Spec.Containers, other)
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	waitFor(b.t, "the other container", func() bool { return strings.Contains(b.logs(p, "other", 0), "args") })
	if out := b.logs(p, "other", 0); !strings.Contains(out, "from-main") || !strings.Contains(out, "F share\n") {
		b.t.Errorf("the other container saw:\n%s", out)
	}
	if shims := b.shims(p); len(shims) != 1 {
		b.t.Errorf("pod has %d shims, want 1", len(shims))
	}
	b.remove(p)
}

// initPod runs its init containers one after another, and ends when one fails.
func initPod(b *bed) {
	withInit := func(script string, policy v1.RestartPolicy) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.RestartPolicy = policy
			p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
			mount := []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
			for _, name := range []string{"first", "second"} {
				c := *p.Spec.Containers[0].DeepCopy()
				c.Name, c.Command, c.VolumeMounts = name, []string{"sh", "-c", script}, mount
				p.Spec.InitContainers = append(p.Spec.InitContainers, c)
			}
			p.Spec.Containers[0].VolumeMounts = mount
		}
	}
	p := pod("init", `cat /data/order; echo args; `+sleeper, withInit(`echo x >> /data/order`, v1.RestartPolicyAlways))
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	st := b.last(p.UID)
	for _, c := range st.InitContainerStatuses {
		if c.State.Terminated == nil || c.State.Terminated.Reason != "Completed" || !c.Ready {
			b.t.Errorf("init container status: %+v", c)
		}
	}
	b.remove1(p, func(out string) {
		if strings.Count(out, "F x\n") != 2 {
			b.t.Errorf("main saw:\n%s", out)
		}
	})
	failing := pod("initfail", sleeper, withInit(`exit 4`, v1.RestartPolicyNever))
	b.runner.Set(failing)
	b.phase(failing, v1.PodFailed)
	if c := b.last(failing.UID).ContainerStatuses[0]; c.State.Waiting == nil || c.State.Waiting.Reason != "PodInitializing" {
		b.t.Errorf("main container of a pod whose init failed: %+v", c.State)
	}
	b.remove(failing)
}

// sidecarPod ends with its main container.
func sidecarPod(b *bed) {
	p := pod("sidecar", `exit 0`, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		c := *p.Spec.Containers[0].DeepCopy()
		c.Name, c.RestartPolicy, c.Command = "side", ptr(v1.ContainerRestartPolicyAlways), []string{"sh", "-c", sleeper}
		p.Spec.InitContainers = []v1.Container{c}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodSucceeded)
	b.remove(p)
}
