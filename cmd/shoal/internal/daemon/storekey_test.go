//go:build linux

package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/store"
)

func opens(t *testing.T, c Config) error {
	t.Helper()
	db, err := c.openStore(t.Context(), store.Options{MinFreeBytes: 1})
	if err != nil {
		return err
	}
	return db.Close()
}

func keyLines(t *testing.T, c Config) (lines []string) {
	t.Helper()
	data, err := os.ReadFile(c.storeKeyPath())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func TestStoreKeyIsMadeOnceAndRotates(t *testing.T) {
	c := Config{DataDir: t.TempDir()}
	if err := errors.Join(opens(t, c), opens(t, c), c.save()); err != nil {
		t.Fatal(err)
	}
	first := keyLines(t, c)
	if info, err := os.Stat(c.storeKeyPath()); err != nil || info.Mode().Perm() != 0o600 || len(first) != 1 {
		t.Fatalf("%v (%v), %d keys", info.Mode(), err, len(first))
	}
	for range 2 { // also twice without a start between
		if _, err := RotateStoreKey(c.DataDir); err != nil {
			t.Fatal(err)
		}
	}
	if lines := keyLines(t, c); len(lines) != 3 || lines[2] != first[0] {
		t.Fatalf("%d keys after two rotations", len(lines))
	}
	if err := opens(t, c); err != nil {
		t.Fatal(err)
	}
	if lines := keyLines(t, c); len(lines) != 1 || lines[0] == first[0] {
		t.Errorf("%d keys after a start", len(lines))
	}
}

func TestStoreKeyElsewhere(t *testing.T) {
	c := Config{DataDir: t.TempDir(), StoreKeyFile: filepath.Join(t.TempDir(), "key")}
	if err := opens(t, c); err != nil {
		t.Fatal(err)
	}
	if err := opens(t, Config{DataDir: c.DataDir}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--store-key-file") {
		t.Errorf("without the flag: %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, storeKeyFile)); err == nil {
		t.Error("a key was made for a store that has another")
	}
	other := Config{DataDir: c.DataDir, StoreKeyFile: filepath.Join(t.TempDir(), "other")}
	key, err := newStoreKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := writeStoreKeys(other.StoreKeyFile, [][]byte{key}); err != nil {
		t.Fatal(err)
	}
	if err := opens(t, other); !errors.Is(err, store.ErrOtherKey) {
		t.Errorf("with another key: %v", err)
	}
	for _, text := range []string{"", "# nothing\n", "AAAA\n", "what is this?\n"} {
		if err := os.WriteFile(other.StoreKeyFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := opens(t, other); err == nil || !strings.Contains(err.Error(), other.StoreKeyFile) {
			t.Errorf("file %q: %v", text, err)
		}
	}
	if err := opens(t, c); err != nil {
		t.Errorf("with its own key: %v", err)
	}
}

// TestStoreOfBefore: one that no key was made for goes on, encrypted.
func TestStoreOfBefore(t *testing.T) {
	c := Config{DataDir: t.TempDir()}
	db, err := store.Open(t.Context(), store.Options{Dir: filepath.Join(c.DataDir, storeDir), MinFreeBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Close(), opens(t, c)); err != nil {
		t.Fatal(err)
	}
	if encrypted, err := store.Encrypted(filepath.Join(c.DataDir, storeDir)); err != nil || !encrypted {
		t.Errorf("encrypted %v, %v", encrypted, err)
	}
}
