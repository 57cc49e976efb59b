package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

func emptyVolume(name string) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}
}

func TestSubPath(t *testing.T) {
	v, dir := open(t, &objects{})
	pod := testPod("u1", emptyVolume("data"))
	setup(t, v, pod)
	m := mounted(t, v, pod, "data")
	write(t, filepath.Join(dir, "secret"), "host")
	write(t, filepath.Join(m.Path, "file"), "inside")
	for from, to := range map[string]string{"out": dir, "up": "../../../..", "in": "deep", "abs": m.Path, "magic": "/proc/self/root"} {
		if err := os.Symlink(to, filepath.Join(m.Path, from)); err != nil {
			t.Fatal(err)
		}
	}
	at := func(i int, path string) (string, error) {
		return v.SubPath(m, SubPath{PodUID: pod.UID, Volume: "data", Container: "c", Index: i, Path: path})
	}
	for i, bad := range []string{"../secret", "/etc", "a/../../x", "out/secret", "out", "up", "abs", "magic/etc", "out/new", "file/x"} {
		got, err := at(i, bad)
		if err == nil {
			t.Errorf("%s: want a refusal, got %s", bad, got)
		} else if strings.Contains(err.Error(), dir) {
			t.Errorf("%s: the error tells of the host: %v", bad, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
		t.Error("a directory was made outside the volume")
	}
	file, err := at(20, "file")
	if err != nil || read(t, file) != "inside" {
		t.Fatalf("file: %v", err)
	}
	made, err := at(21, "deep/er")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(m.Path, "deep/er"))
	if err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("want the volume's own mode, got %v, %v", info.Mode(), err)
	}
	write(t, filepath.Join(m.Path, "in/er/x"), "through a link that stays")
	if read(t, filepath.Join(made, "x")) == "" {
		t.Error("what is written in the volume is not in the path")
	}
	again, err := at(21, "deep/er")
	if err != nil || again != made || len(mountsBelow(t, made)) != 1 {
		t.Errorf("asked again: %s, %v, mounts %q", again, err, mountsBelow(t, made))
	}
	if err := os.RemoveAll(filepath.Join(m.Path, "deep")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(m.Path, "deep/er"), "a file now")
	if again, err = at(21, "deep/er"); err != nil || read(t, again) != "a file now" {
		t.Errorf("after it became a file: %v", err)
	}
}

// A container swaps a directory for a link while the path is resolved. What
// comes out is the directory or an error, never what the link leads to.
func TestSubPathRace(t *testing.T) {
	v, dir := open(t, &objects{})
	pod := testPod("u1", emptyVolume("data"))
	setup(t, v, pod)
	m := mounted(t, v, pod, "data")
	write(t, filepath.Join(dir, "host/sub/mark"), "host")
	write(t, filepath.Join(m.Path, "d/sub/mark"), "inside")
	if err := os.Symlink(filepath.Join(dir, "host"), filepath.Join(m.Path, "l")); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(m.Path, "d"), unix.AT_FDCWD, filepath.Join(m.Path, "l"), unix.RENAME_EXCHANGE)
		}
	}()
	defer func() { stop.Store(true); <-done }()
	found := 0
	for i := 0; i < 300 || found == 0 && i < 100_000; i++ { // one processor may see one state for long
		got, err := v.SubPath(m, SubPath{PodUID: pod.UID, Volume: "data", Container: "c", Path: "d/sub"})
		var refused *SubPathError
		if err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
		if err == nil {
			found++
			if text := read(t, filepath.Join(got, "mark")); text != "inside" {
				t.Fatalf("left the volume: %q", text)
			}
		}
	}
	if found == 0 {
		t.Error("the path was never found")
	}
}

func TestSubPathInConfigMap(t *testing.T) {
	o := &objects{}
	o.put("cfg", map[string]string{"key": "one"})
	v, _ := open(t, o)
	pod := testPod("u1", v1.Volume{Name: "cfg", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "cfg"}}}})
	setup(t, v, pod)
	m := mounted(t, v, pod, "cfg")
	s := SubPath{PodUID: pod.UID, Volume: "cfg", Container: "c", Path: "key"}
	first, err := v.SubPath(m, s)
	if err != nil || read(t, first) != "one" {
		t.Fatal(err)
	}
	o.put("cfg", map[string]string{"key": "two"})
	if err := v.Refresh(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if read(t, filepath.Join(m.Path, "key")) != "two" || read(t, first) != "one" {
		t.Error("the volume is renewed in place, a path in it is not")
	}
	if again, err := v.SubPath(m, s); err != nil || read(t, again) != "two" {
		t.Errorf("a container that starts anew has the new content: %v", err)
	}
}
