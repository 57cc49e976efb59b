package runner

import (
	"strings"

	v1 "k8s.io/api/core/v1"
)

// unsupportedPod asks for what there is not: the field is named.
func unsupportedPod(b *bed) {
	p := pod("nfs", sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "n", VolumeSource: v1.VolumeSource{NFS: &v1.NFSVolumeSource{Server: "x", Path: "/"}}}}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "n", MountPath: "/n"}}
	})
	b.runner.Set(p)
	c := b.container(p, "main", "unsupported", waitingFor("CreateContainerConfigError"))
	if !strings.Contains(c.State.Waiting.Message, "spec.volumes[0]") {
		b.t.Errorf("message does not name the field: %s", c.State.Waiting.Message)
	}
	b.event(p, "Unsupported")
	b.remove(p)

	file := pod("envfile", sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "A", ValueFrom: &v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "v", Path: "x", Key: "A"}}}}
	})
	b.runner.Set(file)
	c = b.container(file, "main", "unsupported", waitingFor("CreateContainerConfigError"))
	if !strings.Contains(c.State.Waiting.Message, "container main: env A: valueFrom.fileKeyRef") {
		b.t.Errorf("message does not name the field: %s", c.State.Waiting.Message)
	}
	b.remove(file)
}
