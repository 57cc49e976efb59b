package volume

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

const killedDir = "SHOAL_TEST_VOLUME_DIR"

func killedPod() (*v1.Pod, *objects) {
	o := &objects{secrets: map[string]*v1.Secret{"s": {Data: map[string][]byte{"k": []byte("hush")}}}}
	o.put("cfg", map[string]string{"key": "text"})
	return withGroup(testPod("u1", emptyVolume("data"), configVolume("cfg"),
		v1.Volume{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
		v1.Volume{Name: "sec", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s"}}},
	), 77, nil), o
}

// TestKilledChild makes and takes down volumes until it is killed.
func TestKilledChild(t *testing.T) {
	dir := os.Getenv(killedDir)
	if dir == "" {
		t.Skip("for TestKilled")
	}
	pod, o := killedPod()
	v, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	for {
		if err := useAll(v, pod); err != nil {
			t.Fatal(err)
		}
		if err := v.Teardown(t.Context(), string(pod.UID)); err != nil {
			t.Fatal(err)
		}
	}
}

func useAll(v *Volumes, pod *v1.Pod) error {
	if err := v.Setup(context.Background(), pod); err != nil {
		return err
	}
	for i, name := range []string{"data", "mem"} {
		m, _ := v.Mounted(pod.UID, name)
		if _, err := v.SubPath(m, SubPath{PodUID: pod.UID, Volume: name, Container: "c", Index: i, Path: "a/b"}); err != nil {
			return err
		}
	}
	return nil
}

// TestKilled: a daemon that is killed at any moment leaves nothing that the
// next one cannot use or take down.
func TestKilled(t *testing.T) {
	pod, o := killedPod()
	_, dir := open(t, o)
	for i := range 40 {
		child := exec.Command(os.Args[0], "-test.run=^TestKilledChild$")
		child.Env = append(os.Environ(), killedDir+"="+dir)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); len(mountsBelow(t, filepath.Join(dir, "pods"))) == 0 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(i%20) * 500 * time.Microsecond)
		_ = child.Process.Kill()
		_ = child.Wait() // killed
		later, err := Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if err := useAll(later, pod); err != nil {
				t.Fatalf("after a kill: %v", err)
			}
			if read(t, filepath.Join(mounted(t, later, pod, "cfg").Path, "key")) != "text" {
				t.Error("the content is wrong")
			}
			checkOwner(t, mounted(t, later, pod, "data").Path, 77, os.ModeDir|os.ModeSetgid|0o777)
		}
		teardown(t, later, pod)
		if left := mountsBelow(t, filepath.Join(dir, "pods")); len(left) > 0 {
			t.Fatalf("mounts left: %q", left)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "pods/*/*")); len(left) > 0 {
			t.Fatalf("left on disk: %q", left)
		}
		if left := later.Leftovers(); len(left) > 0 {
			t.Fatalf("secrets left of %q", left)
		}
	}
}
