package podfile

import (
	"errors"
	"os"
	"path/filepath"
)

// newFile begins the names of files that are not written to their end.
const newFile = ".new-"

// Replace writes a file that is whole however the daemon ends. It does not sync:
// what a crash of the host could lose is gone with what it speaks of.
func Replace(path string, data []byte) error { return replace(path, data, false) }

func replace(path string, data []byte, synced bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), newFile+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && synced {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if synced {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

// syncDir has the directory's new name for a file on disk as well.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// DropUnfinished removes what a daemon left that was killed while it wrote. Nobody
// writes to the directory yet.
func DropUnfinished(dir string) error {
	unfinished, err := filepath.Glob(filepath.Join(dir, newFile+"*"))
	for _, path := range unfinished {
		_ = os.Remove(path)
	}
	return err
}
