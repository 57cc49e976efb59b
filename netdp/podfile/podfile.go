// Package podfile keeps a file for each pod of a host: what a network driver has
// to remember of it when its daemon, or the host, has come back.
//
// What always holds: a file is either as it was or as it became, whenever the
// daemon is killed; one that cannot be read is named and not passed over, since
// nobody else knows what is to be taken away.
//
// It is for netdp and netdp/cni, and knows nothing of what a record says but its
// pod.
package podfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Record is what is remembered of a pod, as JSON.
type Record interface{ PodUID() string }

// Store keeps the records in a directory, which is made for the first.
type Store[R Record] struct {
	Dir string
	// Synced: records outlive a host that crashes too.
	Synced bool
	// Repair says what to do, before the next start, about a record that is damaged.
	Repair string
}

const suffix = ".json"

func (s Store[R]) path(uid string) string { return filepath.Join(s.Dir, uid+suffix) }

// Save writes a pod's record, in place of the one it had.
func (s Store[R]) Save(rec R) error {
	data, err := json.Marshal(rec)
	if err == nil {
		err = os.MkdirAll(s.Dir, 0o700)
	}
	if err == nil {
		err = replace(s.path(rec.PodUID()), data, s.Synced)
	}
	if err != nil {
		return fmt.Errorf("save record of pod %s: %w", rec.PodUID(), err)
	}
	return nil
}

// Remove forgets a pod; one without a record is no error.
func (s Store[R]) Remove(uid string) error {
	if err := os.Remove(s.path(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of pod: %w", err)
	}
	return nil
}

// Load reads all records. Others may be written and removed meanwhile.
func (s Store[R]) Load() ([]R, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list records of pods: %w", err)
	}
	var out []R
	for _, e := range entries {
		path := filepath.Join(s.Dir, e.Name())
		if strings.HasPrefix(e.Name(), newFile) {
			continue
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read record of pod: %w", err)
		}
		var rec R
		if err := json.Unmarshal(data, &rec); err != nil || s.path(rec.PodUID()) != path {
			return nil, fmt.Errorf("read record of pod %s: it is damaged; %s, then start again", path, s.Repair)
		}
		out = append(out, rec)
	}
	return out, nil
}

// maxUIDLength keeps the record's file name legal.
const maxUIDLength = 200

// CheckUID tells whether a pod of that uid can have a record.
func CheckUID(uid string) error {
	if uid == "" || len(uid) > maxUIDLength || strings.ContainsAny(uid, "/\x00") || uid[0] == '.' {
		return fmt.Errorf("pod uid %q cannot be a file name", uid)
	}
	return nil
}

// BootID changes with every start of the host, which takes namespaces and links
// away.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
