package volume

import (
	"errors"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestOnlyWhatIsMountedIsMade: a volume that no container has, of whatever kind,
// keeps no pod from starting and is not there; each way of having it counts.
func TestOnlyWhatIsMountedIsMade(t *testing.T) {
	o := &objects{}
	v, _ := open(t, o)
	share := v1.Volume{Name: "share", VolumeSource: v1.VolumeSource{NFS: &v1.NFSVolumeSource{Server: "x", Path: "/"}}}
	mount, device := v1.VolumeMount{Name: "none", MountPath: "/x"}, v1.VolumeDevice{Name: "none", DevicePath: "/dev/x"}
	for name, use := range map[string]func(*v1.PodSpec){
		"nobody":        nil,
		"main":          func(s *v1.PodSpec) { s.Containers[0].VolumeMounts = []v1.VolumeMount{mount} },
		"init":          func(s *v1.PodSpec) { s.InitContainers = []v1.Container{{VolumeMounts: []v1.VolumeMount{mount}}} },
		"init's device": func(s *v1.PodSpec) { s.InitContainers = []v1.Container{{VolumeDevices: []v1.VolumeDevice{device}}} },
		"main's device": func(s *v1.PodSpec) { s.Containers[0].VolumeDevices = []v1.VolumeDevice{device} },
		"somebody looks": func(s *v1.PodSpec) {
			s.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{VolumeMounts: []v1.VolumeMount{mount}}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod := testPod("u1", share, configVolume("none"))
			pod.Spec.Containers[0].VolumeMounts = nil
			if use != nil {
				use(&pod.Spec)
			}
			err := v.Setup(t.Context(), pod)
			defer teardown(t, v, pod)
			if failed := (*MountError)(nil); errors.As(err, &failed) != (use != nil) {
				t.Errorf("set up: %v", err)
			}
			if _, ok := v.Mounted(pod.UID, "none"); ok {
				t.Error("an absent config map is mounted")
			}
		})
	}
	pod := testPod("u1", share)
	if err := v.Check(pod); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a mounted volume of an unsupported type: %v", err)
	}
}
