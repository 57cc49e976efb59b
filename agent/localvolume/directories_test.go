package localvolume

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

func directories(t *testing.T) *Directories {
	t.Helper()
	d, err := OpenDirectories(filepath.Join(t.TempDir(), "volumes"), func() int64 { return 0 }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func provision(t *testing.T, d *Directories, name string) string {
	t.Helper()
	if _, err := d.Provision(t.Context(), name, 1<<20); err != nil {
		t.Fatal(err)
	}
	return d.Path(name)
}

func put(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func TestProvisionAgainKeepsWhatIsThere(t *testing.T) {
	d := directories(t)
	path := provision(t, d, "pvc-1")
	put(t, filepath.Join(path, "file"))
	provision(t, d, "pvc-1")
	if missing(filepath.Join(path, "file")) {
		t.Error("the file is gone")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != volumeMode {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestDeleteTakesTheNameAtOnceAndPurgeTheFiles(t *testing.T) {
	d := directories(t)
	path := provision(t, d, "pvc-1")
	put(t, filepath.Join(path, "file"))
	for range 2 { // the second time nothing is there
		if err := d.Delete(t.Context(), "pvc-1"); err != nil {
			t.Fatal(err)
		}
	}
	if !missing(path) {
		t.Error("it is there under its name")
	}
	left, err := os.ReadDir(filepath.Join(d.dir, trash))
	if err != nil || len(left) != 1 {
		t.Fatalf("%d deleted, %v", len(left), err)
	}
	// A later daemon removes it.
	again, err := OpenDirectories(d.dir, d.promised, d.log)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(d.dir, trash)); len(left) > 0 {
		t.Errorf("%d are left", len(left))
	}
}

func TestALinkInAVolumeLeadsNowhere(t *testing.T) {
	d := directories(t)
	outside := filepath.Join(t.TempDir(), "precious")
	put(t, outside)
	path := provision(t, d, "pvc-1")
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(path, "link")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Delete(t.Context(), "pvc-1"), d.Purge(t.Context())); err != nil {
		t.Fatal(err)
	}
	if missing(outside) {
		t.Error("a file outside was deleted")
	}
}

func TestDropNeverTakesData(t *testing.T) {
	d := directories(t)
	empty, full := provision(t, d, "pvc-1"), provision(t, d, "pvc-2")
	put(t, filepath.Join(full, "file"))
	for name, wantKept := range map[string]bool{"pvc-1": false, "pvc-2": true, "pvc-3": false} {
		if kept, err := d.Drop(name); err != nil || kept != wantKept {
			t.Errorf("%s: kept %t, %v", name, kept, err)
		}
	}
	if !missing(empty) || missing(filepath.Join(full, "file")) {
		t.Error("the wrong one is gone")
	}
}

func TestNoRoomNamesBothSizes(t *testing.T) {
	d := directories(t)
	_, err := d.Provision(t.Context(), "pvc-1", 1<<60)
	var full *NoRoomError
	if !errors.As(err, &full) || !missing(d.Path("pvc-1")) {
		t.Fatalf("%v", err)
	}
	d.promised = func() int64 { return 1 << 60 }
	if _, err := d.Provision(t.Context(), "pvc-1", 1<<20); !errors.As(err, &full) {
		t.Errorf("all is promised: %v", err)
	}
}
