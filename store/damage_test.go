package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// crashed is the directory of a database as a kill -9 leaves it, with tables
// and a log.
func crashed(t *testing.T) (dir string, actor Actor, records int64) {
	t.Helper()
	from := t.TempDir()
	db, err := Open(t.Context(), Options{Dir: from, MinFreeBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	value := bytes.Repeat([]byte("x"), 20<<10)
	for i := range 400 {
		u := Update{Key: fmt.Sprintf("/registry/x/%d", i), Expect: Absent, UID: "u", Value: append(value, byte(i))}
		if _, err := db.Update(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	dir = filepath.Join(t.TempDir(), "copy")
	for _, kind := range []string{".sst", ".mem"} {
		deadline := 1000
		for len(files(t, from, kind)) == 0 { // flushed by a goroutine of badger's
			if deadline--; deadline == 0 {
				t.Fatalf("no %s", kind)
			}
			u := Update{Key: "/registry/more", Expect: Any, UID: "u", Value: value}
			if _, err := db.Update(t.Context(), u); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return dir, db.Actor(), db.Stats().Records
}

func files(t *testing.T, dir, ext string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"+ext))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

// currentLog is the one with the latest writes; the next is there already, empty.
func currentLog(t *testing.T, dir string) string {
	t.Helper()
	logs := files(t, dir, ".mem")
	slices.Reverse(logs)
	for _, log := range logs {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 100 && !bytes.Equal(b[32:64], make([]byte, 32)) {
			return log
		}
	}
	t.Fatal("no log")
	return ""
}

// TestDamagedFiles: none of these makes the database start with fewer records
// and no word, and none ends the process.
func TestDamagedFiles(t *testing.T) {
	dir, actor, records := crashed(t)
	change := func(edit func([]byte) []byte) func(string) error {
		return func(name string) error {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			return os.WriteFile(name, edit(b), 0o600)
		}
	}
	cut := func(share int) func(string) error {
		return change(func(b []byte) []byte { return b[:len(b)*share/100] })
	}
	flip := change(func(b []byte) []byte { b[len(b)/3] ^= 0x10; return b })
	for name, test := range map[string]struct {
		ext    string
		damage func(name string) error
		// lost: it opens, as a new actor, and says that writes are lost.
		lost bool
	}{
		"undamaged":            {"MANIFEST", func(string) error { return nil }, false},
		"no manifest":          {"MANIFEST", os.Remove, false},
		"half a manifest":      {"MANIFEST", cut(50), false},
		"a manifest's heading": {"MANIFEST", change(func(b []byte) []byte { return b[:16] }), false},
		"a changed manifest":   {"MANIFEST", flip, false},
		"no manifest at all":   {"MANIFEST", cut(0), false},
		"no table":             {".sst", os.Remove, false},
		"half a table":         {".sst", cut(50), false},
		"most of a table":      {".sst", cut(99), false},
		"an empty table":       {".sst", cut(0), false},
		"a changed table":      {".sst", flip, false},
		"no log":               {".mem", os.Remove, true},
	} {
		t.Run(name, func(t *testing.T) {
			bad := filepath.Join(t.TempDir(), "bad")
			if err := os.CopyFS(bad, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			victims := files(t, bad, test.ext)
			if test.ext == ".mem" {
				victims = []string{currentLog(t, bad)}
			}
			if err := test.damage(victims[0]); err != nil {
				t.Fatal(err)
			}
			db, err := Open(t.Context(), Options{Dir: bad, MinFreeBytes: 1})
			var damaged *DamagedError
			switch {
			case name == "undamaged" && err == nil:
				if s := db.Stats(); s.Records != records || s.LostWrites != 0 || s.Actor != actor {
					t.Errorf("%d of %d records, %d lost, actor %x was %x", s.Records, records, s.LostWrites, s.Actor, actor)
				}
			case test.lost && err == nil:
				if s := db.Stats(); s.LostWrites == 0 || s.Actor == actor {
					t.Errorf("%d of %d records, %d lost, actor %x was %x", s.Records, records, s.LostWrites, s.Actor, actor)
				}
			case !errors.As(err, &damaged):
				t.Errorf("it opened, or says no more than %v", err)
			case !strings.Contains(err.Error(), filepath.Base(victims[0])) || !strings.Contains(err.Error(), "shoal restore"):
				t.Errorf("it does not say which file, or what to do: %v", err)
			default:
				t.Log(err)
			}
			if db != nil {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestTheLogLostItsEnd: what is left is served, and what is written next is
// nobody's dot already.
func TestTheLogLostItsEnd(t *testing.T) {
	dir, actor, _ := crashed(t)
	log := currentLog(t, dir)
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[100:]) // the log is allocated ahead and zero after its end
	if err := os.WriteFile(log, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for first := true; ; first = false {
		db, err := Open(t.Context(), Options{Dir: dir, MinFreeBytes: 1})
		if err != nil {
			t.Fatal(err)
		}
		s := db.Stats()
		if first && (s.LostWrites == 0 || s.Actor == actor) || !first && s.LostWrites > 0 {
			t.Errorf("first %v: %d lost, actor %x was %x", first, s.LostWrites, s.Actor, actor)
		}
		if _, err := db.Update(t.Context(), Update{Key: "/registry/next", Expect: Any, UID: "u", Value: []byte("x")}); err != nil {
			t.Error(err)
		}
		if v := db.Vector(); v[db.Actor()] == nil || v[actor] == nil {
			t.Error("an actor's writes are not known")
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if !first {
			return
		}
	}
}

// TestErasedSinceATableWasMade: a crash may leave a table that is not listed yet
// with a record that was deleted and reaped meanwhile.
func TestErasedSinceATableWasMade(t *testing.T) {
	dir := t.TempDir()
	open := func() *DB {
		t.Helper()
		db, err := Open(t.Context(), Options{Dir: dir, MinFreeBytes: 1})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	db := open()
	const key = "/registry/pods/x/gone"
	if _, err := db.Update(t.Context(), Update{Key: key, Expect: Absent, UID: "u", Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil { // which writes a table
		t.Fatal(err)
	}
	made, err := os.ReadFile(files(t, dir, ".sst")[0])
	if err != nil {
		t.Fatal(err)
	}
	db = open()
	batch := db.badger.NewManagedWriteBatch()
	if err := errors.Join(batch.DeleteAt([]byte(key), uint64(db.Version())+1), batch.Flush(), db.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "900000.sst"), made, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open().Close(); err != nil {
		t.Error(err)
	}
}
