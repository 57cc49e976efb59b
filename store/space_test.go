package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	testDiskBytes = 96 << 20
	testMinFree   = 32 << 20
)

// smallDisk mounts a file system of testDiskBytes.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("shoal-store-test", dir, "tmpfs", 0, "size=96m"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// fill takes all free space of disk but leave bytes, and returns how to give
// it back.
func fill(t *testing.T, disk string, leave uint64) (release func()) {
	t.Helper()
	path := filepath.Join(disk, "somebody-else")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var st syscall.Statfs_t
	if err := syscall.Statfs(disk, &st); err != nil {
		t.Fatal(err)
	}
	if free := st.Bavail * uint64(st.Bsize); free > leave {
		if err := syscall.Fallocate(int(file.Fd()), 0, 0, int64(free-leave)); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	disk := smallDisk(t)
	o := Options{Dir: filepath.Join(disk, "data"), MinFreeBytes: testMinFree}
	db := openTest(t, o)
	value := bytes.Repeat([]byte("v"), 100_000)
	// Enough to fill the memtable several times over, and some large values.
	for i := range 40 {
		mustUpdate(t, db, Update{Key: "/before", Expect: Any, Value: value[:100_000-i]})
	}
	mustUpdate(t, db, Update{Key: "/large", Value: bytes.Repeat(value, 10)})
	w := watch(t, db, "/", db.Version())

	release := fill(t, disk, testMinFree/4)
	refuseWrite(t, db)
	if s := db.Stats(); !s.Refusing {
		t.Error("statistics do not say that writes are refused")
	}
	if e, _, err := db.Get("/large", Latest); err != nil || len(e.Value) != 10*len(value) {
		t.Errorf("read on a full disk: %d bytes (%v)", len(e.Value), err)
	}
	if keys := listKeys(t, db, Range{Prefix: "/"}, Latest); len(keys) != 2 {
		t.Errorf("list on a full disk: %v", keys)
	}

	release()
	mustUpdate(t, db, Update{Key: "/after", Value: value})
	if e := takeN(t, w, 1); e[0].Key != "/after" {
		t.Errorf("the watch went on with %s", describe(e[0]))
	}
	if s := db.Stats(); s.Refusing {
		t.Error("statistics still say that writes are refused")
	}
}

func refuseWrite(t *testing.T, db *DB) {
	t.Helper()
	var full *NoSpaceError
	if _, err := db.Update(t.Context(), Update{Key: "/during", Value: []byte("x")}); !errors.As(err, &full) {
		t.Fatalf("write on a full disk: error %v, want a NoSpaceError", err)
	}
	if _, _, err := db.Get("/during", Latest); !errors.Is(err, ErrNotFound) {
		t.Errorf("the refused write: error %v, want ErrNotFound", err)
	}
}

// TestRestartOnFullDisk: with not a byte left the database closes, opens again
// and serves reads; what that takes comes out of the ballast.
func TestRestartOnFullDisk(t *testing.T) {
	disk := smallDisk(t)
	o := Options{Dir: filepath.Join(disk, "data"), MinFreeBytes: testMinFree}
	db := openTest(t, o)
	mustUpdate(t, db, Update{Key: "/a", Value: bytes.Repeat([]byte("v"), 200_000)})
	release := fill(t, disk, 0)
	refuseWrite(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openTest(t, o)
	if e, _, err := db.Get("/a", Latest); err != nil || len(e.Value) != 200_000 {
		t.Errorf("read after restart: %d bytes (%v)", len(e.Value), err)
	}
	refuseWrite(t, db)
	release()
	mustUpdate(t, db, Update{Key: "/b"})
}

// TestHeldUpBeforeTheBallastGoes: who eats every byte that becomes free is told
// before the ballast does, and the database opens. Without that it does not.
func TestHeldUpBeforeTheBallastGoes(t *testing.T) {
	for _, held := range []bool{true, false} {
		disk := smallDisk(t)
		o := Options{Dir: filepath.Join(disk, "data"), MinFreeBytes: testMinFree}
		db := openTest(t, o)
		mustUpdate(t, db, Update{Key: "/a", Value: bytes.Repeat([]byte("v"), 200_000)})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		fill(t, disk, 0)
		stop, stopped := make(chan struct{}), make(chan struct{})
		eater, err := os.OpenFile(filepath.Join(disk, "eater"), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(stopped)
			defer eater.Close()
			for block := make([]byte, 1<<20); ; {
				select {
				case <-stop:
					return
				default:
					_, _ = eater.Write(block) // no space is what it waits for the end of
				}
			}
		}()
		asked := 0
		if held {
			o.Short = func(uint64) { asked++; close(stop); <-stopped }
		} else {
			// The eater runs on until all is gone: the ballast's bytes are its.
			o.Short = func(uint64) {
				asked++
				if err := os.Remove(filepath.Join(o.Dir, ballastFile)); err != nil {
					t.Error(err)
				}
				for free := uint64(1); free > 0; {
					var st syscall.Statfs_t
					if err := syscall.Statfs(disk, &st); err != nil {
						t.Fatal(err)
					}
					free = st.Bavail
				}
			}
		}
		db, err = Open(t.Context(), o)
		if !held {
			close(stop)
			<-stopped
		}
		if asked != 1 {
			t.Errorf("held %t: told %d times", held, asked)
		}
		full := (*NoSpaceError)(nil)
		switch {
		case held && err != nil:
			t.Errorf("open with the eater held up: %v", err)
		case held:
			if e, _, err := db.Get("/a", Latest); err != nil || len(e.Value) != 200_000 {
				t.Errorf("read: %d bytes, %v", len(e.Value), err)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		case !errors.As(err, &full) || !strings.Contains(err.Error(), "free some space there, then start again"):
			t.Errorf("open with the eater at work: %v", err)
		}
	}
}

// TestOpenWithoutSpace: no ballast and no space gives an error that says so.
func TestOpenWithoutSpace(t *testing.T) {
	disk := smallDisk(t)
	o := Options{Dir: filepath.Join(disk, "data"), MinFreeBytes: testMinFree}
	release := fill(t, disk, 0)
	_, err := Open(t.Context(), o)
	var full *NoSpaceError
	if !errors.As(err, &full) && !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("open on a full disk: error %v, want a NoSpaceError", err)
	}
	release()
	openTest(t, o)
}

// TestCommitFailure: a batch that badger refuses is answered with its error
// and shows nowhere.
func TestCommitFailure(t *testing.T) {
	db := openTest(t, Options{})
	from := db.Version()
	if err := db.badger.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Update(t.Context(), Update{Key: "/a"}); err == nil {
		t.Error("a write was answered with success over a closed badger")
	}
	if db.Version() != from {
		t.Errorf("version went from %s to %s", from, db.Version())
	}
}
