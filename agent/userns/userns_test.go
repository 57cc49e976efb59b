package userns

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestIDs(t *testing.T) {
	dir := t.TempDir()
	ids, err := OpenIDs(dir)
	if err != nil {
		t.Fatal(err)
	}
	for n, uid := range []string{"a", "b", "a"} {
		if got, err := ids.Take(uid); err != nil || got != uint32(n%2+1)*Length {
			t.Errorf("%s: %d, %v", uid, got, err)
		}
	}
	again, err := OpenIDs(dir) // as after a restart
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Take("b"); err != nil || got != 2*Length {
		t.Errorf("b after a restart: %d, %v", got, err)
	}
	if err := again.Release("a"); err != nil {
		t.Error(err)
	}
	if err := again.Release("stranger"); err != nil {
		t.Error(err)
	}
	if got, err := again.Take("c"); err != nil || got != Length {
		t.Errorf("c has %d, %v, not what a had", got, err)
	}
	for n := 3; n <= rangesMax; n++ {
		if _, err := again.Take(fmt.Sprint("pod", n)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := again.Take("one more"); err == nil || !strings.Contains(err.Error(), "could not find an empty slot") {
		t.Errorf("more pods than ranges: %v", err)
	}
}

func TestDamagedIDs(t *testing.T) {
	for _, text := range []string{"", "x", "0", "-65536", "65537", "4294967296", fmt.Sprint((rangesMax + 1) * Length)} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "uid", recordName), text)
		if _, err := OpenIDs(dir); err == nil || !strings.Contains(err.Error(), "uid/userns") {
			t.Errorf("%q: %v", text, err)
		}
	}
	dir := t.TempDir()
	for _, uid := range []string{"a", "b"} {
		write(t, filepath.Join(dir, uid, recordName), "65536\n")
	}
	if _, err := OpenIDs(dir); err == nil || !strings.Contains(err.Error(), "the same user ids") {
		t.Errorf("one range twice: %v", err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces and mounts")
	}
	if err := Probe(t.TempDir()); err != nil {
		t.Skip(err)
	}
}

// inNamespace runs f with the path of a user namespace.
func inNamespace(t *testing.T, f func(users string)) {
	t.Helper()
	ns, err := Make(Length)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	f(ns.Path("user"))
}

func ownerOf(t *testing.T, path string) (uint32, uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid, st.Mode & 0o7777
}

// TestOverlay: of many layers, the owners are those of the range, and what is
// changed goes to the writable layer.
func TestOverlay(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	var lower []string
	const layers = 60
	for i := range layers {
		l := filepath.Join(dir, "snapshots", strconv.Itoa(i), "fs")
		write(t, filepath.Join(l, "of"+strconv.Itoa(i)), "x")
		lower = append(lower, l)
	}
	if err := os.Chown(filepath.Join(lower[0], "of0"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	upper, work := filepath.Join(dir, "snapshots", "up", "fs"), filepath.Join(dir, "snapshots", "up", "work")
	stage, root := filepath.Join(dir, "stage"), filepath.Join(dir, "root")
	for _, d := range []string{upper, work, stage, root} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(upper, 0o755|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	inNamespace(t, func(users string) {
		r := Root{Type: "overlay", Source: "overlay", Options: []string{"index=off", "workdir=" + work, "upperdir=" + upper, "lowerdir=" + strings.Join(lower, ":")}}
		if err := r.Mount(users, Length, stage, root); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := unix.Unmount(root, 0); err != nil {
				t.Error(err)
			}
		}()
		for path, want := range map[string]uint32{"": Length, "of0": Length + 1000, "of59": Length} {
			if got, mode := ownerOf(t, filepath.Join(root, path)); got != want || (path == "" && mode != 0o1755) {
				t.Errorf("%q belongs to %d, mode %o", path, got, mode)
			}
		}
		if err := os.WriteFile(filepath.Join(root, "of0"), []byte("changed"), 0o644); err != nil {
			t.Error(err)
		}
		if got, _ := ownerOf(t, filepath.Join(upper, "of0")); got != Length+1000 {
			t.Errorf("copied up, the file belongs to %d", got)
		}
		if entries, _ := os.ReadDir(stage); len(entries) != 0 {
			t.Error("the layers are still mounted")
		}
	})
}

func TestCannotMap(t *testing.T) {
	needRoot(t)
	target := t.TempDir()
	inNamespace(t, func(users string) {
		if err := Bind(users, "/proc", target); err == nil || !strings.Contains(err.Error(), "does not support idmapped mounts") {
			t.Errorf("proc: %v", err)
		}
		if err := Bind(users, filepath.Join(target, "none"), target); err == nil || !strings.Contains(err.Error(), "clone mount of") {
			t.Errorf("nothing: %v", err)
		}
		if err := (Root{Type: "zfs"}).Mount(users, Length, target, target); err == nil || !strings.Contains(err.Error(), "only overlayfs") {
			t.Errorf("zfs: %v", err)
		}
		if err := (Root{Type: "overlay"}).Mount(users, Length, target, target); err == nil {
			t.Error("an overlay of nothing is mounted")
		}
	})
	if err := Probe("/proc"); err == nil || !strings.Contains(err.Error(), "map ids of /proc") {
		t.Errorf("a host that cannot: %v", err)
	}
}

func TestCommonDir(t *testing.T) {
	for want, paths := range map[string][]string{
		"/a/b":     {"/a/b"},
		"/a":       {"/a/b/fs", "/a/bc/fs"},
		"/a/b/c":   {"/a/b/c", "/a/b/c/d"},
		"/":        {"/x/fs", "/y/fs"},
		"/s/snaps": {"/s/snaps/1/fs", "/s/snaps/12/fs", "/s/snaps/2/fs"},
	} {
		if got := commonDir(paths); got != want {
			t.Errorf("%q: %s, want %s", paths, got, want)
		}
	}
}
