package store

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestDirectoryLock(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, Options{Dir: dir})
	_, err := Open(t.Context(), Options{Dir: dir})
	var locked *LockedError
	if !errors.As(err, &locked) {
		t.Fatalf("second open: error %v, want a LockedError", err)
	}
	if locked.PID != os.Getpid() || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %q does not name the holder %d and the directory", err, os.Getpid())
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, Options{Dir: dir})
}
