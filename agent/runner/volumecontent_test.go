package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// volumesPod has volumes of every kind that is a source of files; what changes in the
// API changes there.
func volumesPod(b *bed) {
	b.objects.configMaps["test/conf"] = &v1.ConfigMap{Data: map[string]string{"a": "A", "b": "B"}}
	b.objects.secrets["test/sec2"] = &v1.Secret{Data: map[string][]byte{"key": []byte("hush")}}
	host := b.t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "f"), []byte("host"), 0o644); err != nil {
		b.t.Fatal(err)
	}
	script := `cat /conf/a /secret/key /host/f /down/name /var/run/token /sub; grep -c " /mem tmpfs" /proc/mounts; ls -ld /empty; echo args; ` + sleeper
	p := pod("vols", script, func(p *v1.Pod) {
		p.Labels = map[string]string{"l": "v"}
		p.Spec.ServiceAccountName = "acc"
		p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr(int64(77))}
		p.Spec.Volumes = []v1.Volume{
			{Name: "conf", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}}},
			{Name: "sec", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "sec2"}}},
			{Name: "empty", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
			{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: ptr(resource.MustParse("1Mi"))}}},
			{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: host, Type: ptr(v1.HostPathDirectory)}}},
			{Name: "down", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels['l']"}}}}}},
			{Name: "tok", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}}}}}},
			{Name: "unmounted", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "none"}}}},
		}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{
			{Name: "conf", MountPath: "/conf"}, {Name: "sec", MountPath: "/secret", ReadOnly: true}, {Name: "empty", MountPath: "/empty"},
			{Name: "mem", MountPath: "/mem"}, {Name: "host", MountPath: "/host"}, {Name: "down", MountPath: "/down"},
			{Name: "tok", MountPath: "/var/run"}, {Name: "conf", MountPath: "/sub", SubPath: "b"},
		}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	waitFor(b.t, "the script", func() bool { return strings.Contains(b.logs(p, "main", 0), "F args") })
	// A changed object reaches the running container.
	b.objects.configMaps["test/conf"] = &v1.ConfigMap{Data: map[string]string{"a": "A2", "b": "B"}}
	b.runner.Refresh(p.UID)
	waitFor(b.t, "the changed config map", func() bool { return b.run(p, "cat", "/conf/a") == "A2" })
	relabelled := p.DeepCopy()
	relabelled.Labels = map[string]string{"l": "v2"}
	b.runner.Set(relabelled)
	waitFor(b.t, "the changed label", func() bool { return b.run(p, "cat", "/down/name") == "v2" })
	b.remove1(p, func(out string) {
		if !strings.Contains(out, "Ahushhostvtoken-of-accB1\n") {
			b.t.Errorf("volume contents:\n%s", out)
		}
		if !strings.Contains(out, "drwxrwsrwx") || !strings.Contains(out, " extra ") {
			b.t.Errorf("emptyDir has the wrong owner or mode:\n%s", out)
		}
	})
	if _, err := os.Stat(host + "/f"); err != nil {
		b.t.Errorf("host path was removed with the pod: %v", err)
	}
}

// TestVolumesAndRestarts has its own host: the daemon is restarted.
func TestVolumesAndRestarts(t *testing.T) {
	b := newBed(t)
	imageVolumePods(b)
	vanishedPod(b)
}
