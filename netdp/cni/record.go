package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// record is what the host remembers of a pod's network from before the first
// plugin runs until the last has ended.
type record struct {
	UID          string          `json:"uid"`
	Namespace    string          `json:"namespace"`
	Name         string          `json:"name"`
	Sandbox      string          `json:"sandbox"` // CNI_CONTAINERID
	Boot         string          `json:"boot"`    // a reboot takes namespaces away, not leases
	Config       json.RawMessage `json:"config"`  // the list of plugins, all in it
	Capabilities map[string]any  `json:"capabilities,omitempty"`
	Addresses    []netip.Addr    `json:"addresses,omitempty"`
	Made         bool            `json:"made"` // every plugin has answered
}

// maxUIDLength keeps the record's file name legal.
const maxUIDLength = 200

func checkUID(uid string) error {
	if uid == "" || len(uid) > maxUIDLength || strings.ContainsAny(uid, "/\x00") || uid[0] == '.' {
		return fmt.Errorf("pod uid %q cannot be a file name", uid)
	}
	return nil
}

// records keeps one file for each pod. A configuration may hold secrets.
type records struct{ dir string }

const (
	recordSuffix = ".json"
	newFile      = ".new-" // begins the names of files that are not written to their end
)

func (r records) path(uid string) string { return filepath.Join(r.dir, uid+recordSuffix) }

// save is synced: a lease that nobody remembers is lost to the host's range.
func (r records) save(rec record) error {
	data, err := json.Marshal(rec)
	if err == nil {
		err = os.MkdirAll(r.dir, 0o700)
	}
	if err == nil {
		err = replaceSynced(r.path(rec.UID), data)
	}
	if err != nil {
		return fmt.Errorf("save record of pod %s/%s: %w", rec.Namespace, rec.Name, err)
	}
	return nil
}

func replaceSynced(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), newFile+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
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
	}
	return err
}

func (r records) remove(uid string) error {
	if err := os.Remove(r.path(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of pod: %w", err)
	}
	return nil
}

// load reads all records; one that cannot be read is an error that names it.
func (r records) load() ([]record, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list records of pods: %w", err)
	}
	var out []record
	for _, e := range entries {
		path := filepath.Join(r.dir, e.Name())
		if strings.HasPrefix(e.Name(), newFile) {
			_ = os.Remove(path)
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read record of pod: %w", err)
		}
		var rec record
		if err := json.Unmarshal(data, &rec); err != nil || r.path(rec.UID) != path {
			return nil, fmt.Errorf("read record of pod %s: it is damaged; take back what the plugins noted of the pod, remove the file, then start again", path)
		}
		out = append(out, rec)
	}
	return out, nil
}
