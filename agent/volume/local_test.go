package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// claimed gives a pod the local volume at path, through a claim.
func claimed(t *testing.T, path string, change ...func(*v1.PersistentVolume)) (*objects, v1.Volume) {
	t.Helper()
	pv := &v1.PersistentVolume{Spec: v1.PersistentVolumeSpec{
		PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: path}},
		NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{"here"}}},
		}}}},
	}}
	pv.Name = "pv"
	for _, f := range change {
		f(pv)
	}
	claim := &v1.PersistentVolumeClaim{Spec: v1.PersistentVolumeClaimSpec{VolumeName: pv.Name}}
	source := &objects{claims: map[string]*v1.PersistentVolumeClaim{"c": claim}, pvs: map[string]*v1.PersistentVolume{pv.Name: pv}}
	return source, v1.Volume{Name: "data", VolumeSource: v1.VolumeSource{
		PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "c"},
	}}
}

func openLocal(t *testing.T, source Source, warnings *[]string) *Volumes {
	t.Helper()
	v, _ := open(t, source)
	v.Register(KindLocal, &Local{
		NodeLabels: func(context.Context) (map[string]string, error) {
			return map[string]string{v1.LabelHostname: "here"}, nil
		},
		Warn: func(_ *v1.Pod, reason, message string) { *warnings = append(*warnings, reason+": "+message) },
	})
	return v
}

func TestALocalVolumeIsUsedUntilItsPodIsTakenDown(t *testing.T) {
	dir := t.TempDir()
	source, vol := claimed(t, dir)
	v := openLocal(t, source, new([]string))
	pod := testPod("u1", vol)
	setup(t, v, pod)
	if m, ok := v.Mounted(pod.UID, "data"); !ok || m.Path != dir {
		t.Errorf("%+v", m)
	}
	for _, want := range []bool{true, false} {
		used, err := v.InUse(dir)
		if err != nil || used != want {
			t.Errorf("in use: %t, %v, want %t", used, err, want)
		}
		teardown(t, v, pod)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

func TestALocalVolumeThatCannotBeSaysWhy(t *testing.T) {
	block := v1.PersistentVolumeBlock
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path, says string
		change     func(*v1.PersistentVolume)
	}{
		{"/no/such", `MountVolume.SetUp failed for volume "pv" : path "/no/such" does not exist`, func(*v1.PersistentVolume) {}},
		{file, "is neither a directory nor a block device", func(*v1.PersistentVolume) {}},
		{t.TempDir(), "is not a block device", func(pv *v1.PersistentVolume) { pv.Spec.VolumeMode = &block }},
		{t.TempDir(), `MountVolume.NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms`, func(pv *v1.PersistentVolume) {
			pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values = []string{"elsewhere"}
		}},
		{"", "persistent volume pv: its source is not supported here", func(pv *v1.PersistentVolume) {
			pv.Spec.PersistentVolumeSource = v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{}}
		}},
	} {
		source, vol := claimed(t, test.path, test.change)
		v := openLocal(t, source, new([]string))
		pod := testPod("u1", vol)
		if strings.Contains(test.says, "block device") && test.path != file {
			pod.Spec.Containers[0].VolumeMounts, pod.Spec.Containers[0].VolumeDevices = nil, []v1.VolumeDevice{{Name: vol.Name}}
		}
		err := v.Setup(t.Context(), pod)
		if failed := (*MountError)(nil); !errors.As(err, &failed) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", test.path, err, test.says)
		}
		teardown(t, v, pod)
	}
	if _, err := os.Stat("/no/such"); err == nil {
		t.Error("a directory was made for a volume that vanished")
	}
}

// TestTheGroupIsGivenOnce: not again when the daemon starts anew, and not while
// another pod has the files.
func TestTheGroupIsGivenOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	group := func() int64 {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return groupOf(info)
	}
	source, vol := claimed(t, dir)
	var warnings []string
	v := openLocal(t, source, &warnings)
	pod := withGroup(testPod("u1", vol), 4242, nil)
	setup(t, v, pod)
	if group() != 4242 {
		t.Fatalf("group %d", group())
	}
	if err := os.Chown(file, -1, 7); err != nil {
		t.Fatal(err)
	}
	setup(t, v, pod)
	other := withGroup(testPod("u2", vol), 4343, nil)
	setup(t, v, other)
	if group() != 7 || len(warnings) != 1 || !strings.Contains(warnings[0], "AlreadyMountedVolume: The requested fsGroup is 4343, but the volume pv has GID 4242") {
		t.Errorf("group %d, warnings %q", group(), warnings)
	}
}

func TestMountOptionsAreTheVolumes(t *testing.T) {
	dir := t.TempDir()
	source, vol := claimed(t, dir, func(pv *v1.PersistentVolume) { pv.Spec.MountOptions = []string{"noexec"} })
	v := openLocal(t, source, new([]string))
	pod := testPod("u1", vol)
	setup(t, v, pod)
	m, _ := v.Mounted(pod.UID, "data")
	var st unix.Statfs_t
	if err := unix.Statfs(m.Path, &st); err != nil || st.Flags&unix.ST_NOEXEC == 0 {
		t.Errorf("%s has flags %x, %v", m.Path, st.Flags, err)
	}
}
