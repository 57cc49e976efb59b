package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, KeyBytes) }

// writeMany writes enough for tables, logs and the value log to exist.
func writeMany(t *testing.T, dir, name, marker string, keys ...[]byte) {
	t.Helper()
	db, err := Open(t.Context(), Options{Dir: dir, MinFreeBytes: 1, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	for i := range 300 {
		value := bytes.Repeat([]byte(marker), 10<<10/len(marker))
		if i%100 == 0 {
			value = bytes.Repeat([]byte(marker), valueLogThreshold*2/len(marker))
		}
		if _, err := db.Update(t.Context(), Update{Key: fmt.Sprintf("/registry/%s/%d", name, i), Expect: Absent, UID: "u", Value: value}); err != nil {
			t.Fatal(err)
		}
	}
}

// holding lists the files below dir that have text in them.
func holding(t *testing.T, dir, text string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), text) {
			names = append(names, filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func count(t *testing.T, dir string, keys ...[]byte) int64 {
	t.Helper()
	db, err := Open(t.Context(), Options{Dir: dir, MinFreeBytes: 1, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	return db.Stats().Records
}

func TestNothingOnDiskIsPlain(t *testing.T) {
	dir := t.TempDir()
	writeMany(t, dir, "x", "a-secret-of-somebody", key(1))
	if names := holding(t, dir, "a-secret-of-somebody"); len(names) > 0 {
		t.Errorf("in plain form in %v", names)
	}
	if n := count(t, dir, key(1)); n != 300 {
		t.Errorf("%d records, want 300", n)
	}
	writeMany(t, t.TempDir(), "x", "b", key(1))
}

func TestAnotherKeyOpensNothing(t *testing.T) {
	dir := t.TempDir()
	writeMany(t, dir, "x", "value", key(1))
	for _, keys := range [][][]byte{nil, {key(2)}, {key(2), key(3)}} {
		if _, err := Open(t.Context(), Options{Dir: dir, MinFreeBytes: 1, Keys: keys}); !errors.Is(err, ErrOtherKey) {
			t.Errorf("with %d keys: %v", len(keys), err)
		}
	}
	if _, err := Open(t.Context(), Options{Dir: dir, MinFreeBytes: 1, Keys: [][]byte{{1}}}); err == nil {
		t.Error("a key of one byte is taken")
	}
	if n := count(t, dir, key(1)); n != 300 {
		t.Errorf("%d records, want 300", n)
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	writeMany(t, dir, "x", "value", key(1))
	writeMany(t, dir, "y", "value", key(2), key(1))
	if _, err := Open(t.Context(), Options{Dir: dir, MinFreeBytes: 1, Keys: [][]byte{key(1)}}); !errors.Is(err, ErrOtherKey) {
		t.Errorf("the old key still opens it: %v", err)
	}
	if n := count(t, dir, key(2)); n != 600 {
		t.Errorf("%d records, want 600", n)
	}
}

// TestAPlainStoreBecomesEncrypted: one of a version before there were keys.
func TestAPlainStoreBecomesEncrypted(t *testing.T) {
	dir := t.TempDir()
	writeMany(t, dir, "x", "value-of-before")
	writeMany(t, dir, "y", "value-of-after", key(1))
	if n := count(t, dir, key(1)); n != 600 {
		t.Errorf("%d records, want 600", n)
	}
	if names := holding(t, dir, "value-of-after"); len(names) > 0 {
		t.Errorf("in plain form in %v", names)
	}
}

func TestRegistry(t *testing.T) {
	dir := t.TempDir()
	writeMany(t, dir, "x", "value", key(1))
	path := filepath.Join(dir, badger.KeyRegistryFileName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for cut := 1; cut < 40; cut += 7 { // half a data key more
		write(append(append([]byte{}, whole...), whole[28:28+cut]...))
		if n := count(t, dir, key(1)); n != 300 {
			t.Errorf("%d more bytes: %d records, want 300", cut, n)
		}
	}
	var damaged *DamagedError
	write(whole[:10])
	if _, err := Open(t.Context(), Options{Dir: dir, MinFreeBytes: 1, Keys: [][]byte{key(1)}}); !errors.As(err, &damaged) {
		t.Errorf("cut short: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Dir: dir, MinFreeBytes: 1, Keys: [][]byte{key(1)}}); !errors.As(err, &damaged) {
		t.Errorf("missing: %v", err)
	}
	write(whole)
	if n := count(t, dir, key(1)); n != 300 {
		t.Errorf("put back: %d records, want 300", n)
	}
}

// TestCrashEncrypted: the tables that a crash leaves unlisted are read too.
func TestCrashEncrypted(t *testing.T) {
	from := t.TempDir()
	writeMany(t, from, "x", "value", key(1))
	db, err := Open(t.Context(), Options{Dir: from, MinFreeBytes: 1, Keys: [][]byte{key(1)}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Update(t.Context(), Update{Key: "/registry/last", Expect: Absent, UID: "u", Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	table := files(t, dir, ".sst")[0]
	unlisted := filepath.Join(dir, "900000.sst")
	data, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(unlisted, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := count(t, dir, key(1)); n != 301 {
		t.Errorf("%d records, want 301", n)
	}
}
