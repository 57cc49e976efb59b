package secretspec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Names in a container's directory; runtime_linux.c knows them too.
const (
	linkName    = "shoal-oci-runtime" // leads to the shoal binary
	runtimeName = "runtime"           // leads to the OCI runtime
	valuesName  = "values"
	bundleName  = "bundle" // the specification with its values is made here
)

// Vault holds what the tokens of containers stand for.
type Vault struct {
	dir    string // one directory for each container
	binary string // links this package
}

// Open takes dir, which must be on a tmpfs, and the binary that links this
// package.
func Open(dir, binary string) (*Vault, error) {
	if !Supported {
		return nil, errors.New("open secret values: built without cgo; build for linux with CGO_ENABLED=1")
	}
	v := &Vault{dir, binary}
	if err := v.make(dir); err != nil {
		return nil, fmt.Errorf("open secret values: %w", err)
	}
	return v, nil
}

// make makes a directory, and refuses one that is not on a tmpfs: the mount
// may have been taken away since the last time.
func (v *Vault) make(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC {
		return fmt.Errorf("%s is not on a tmpfs, and secrets are never written to a disk; restart shoal to have one mounted", dir)
	}
	return nil
}

// Store keeps what is hidden of a container and gives the path that takes its
// OCI runtime's place. runtime is the runtime's path, or a name to be found in
// PATH.
func (v *Vault) Store(id, runtime string, h *Hidden) (string, error) {
	data, err := h.encode()
	if err != nil {
		return "", err
	}
	path, err := exec.LookPath(runtime)
	if err != nil {
		return "", fmt.Errorf("find OCI runtime: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", fmt.Errorf("find OCI runtime: %w", err)
	}
	dir := filepath.Join(v.dir, id)
	if err := v.make(filepath.Join(dir, bundleName)); err != nil {
		return "", fmt.Errorf("keep secret values: %w", err)
	}
	link := filepath.Join(dir, linkName)
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, valuesName), data, 0o600),
		os.Symlink(path, filepath.Join(dir, runtimeName)),
		os.Symlink(v.binary, link),
	)
	if err != nil {
		return "", fmt.Errorf("keep secret values: %w", errors.Join(err, os.RemoveAll(dir)))
	}
	return link, nil
}

// Remove forgets a container. Only after its task is deleted, since the shim
// deletes through the link. One that has nothing here is fine.
func (v *Vault) Remove(id string) error {
	if err := os.RemoveAll(filepath.Join(v.dir, id)); err != nil {
		return fmt.Errorf("remove secret values: %w", err)
	}
	return nil
}

// Keep forgets all containers but those known.
func (v *Vault) Keep(known map[string]bool) error {
	entries, err := os.ReadDir(v.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list secret values: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !known[e.Name()] {
			errs = append(errs, v.Remove(e.Name()))
		}
	}
	return errors.Join(errs...)
}
