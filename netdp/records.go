package netdp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"shoal/netdp/policy/tables"
)

// podRecord is what the host remembers of a pod's network. The file is written
// before anything is made and removed after all is gone, so a daemon killed in
// between finds what it has to finish or clear away.
type podRecord struct {
	UID       string     `json:"uid"`
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Address   netip.Addr `json:"address"`
	Address6  netip.Addr `json:"address6"` // not valid: it has IPv4 only
	Boot      string     `json:"boot"`     // a reboot takes namespaces and links away
	Made      bool       `json:"made"`     // everything was there once

	Identity *tables.Identity `json:"identity,omitempty"` // nil: nobody has told
}

// addresses has the one or two that the pod has, IPv4 first.
func (p podRecord) addresses() []netip.Addr {
	if p.Address6.IsValid() {
		return []netip.Addr{p.Address, p.Address6}
	}
	return []netip.Addr{p.Address}
}

// records keeps one file for each pod in dir/pods, and the address handed out
// last in dir/last-address.
type records struct{ dir string }

func openRecords(dir string) (records, error) {
	r := records{dir: dir}
	for _, sub := range []string{r.podsDir(), r.netnsDir()} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return r, fmt.Errorf("create state directory: %w", err)
		}
	}
	// What a daemon left that was killed while it wrote; those of pods go as their
	// records are loaded.
	unfinished, err := filepath.Glob(filepath.Join(dir, newFile+"*"))
	for _, path := range unfinished {
		_ = os.Remove(path)
	}
	return r, err
}

// newFile begins the names of files that are not written to their end.
const newFile = ".new-"

func (r records) podsDir() string         { return filepath.Join(r.dir, "pods") }
func (r records) netnsDir() string        { return filepath.Join(r.dir, "netns") }
func (r records) pod(uid string) string   { return filepath.Join(r.podsDir(), uid+".json") }
func (r records) netns(uid string) string { return filepath.Join(r.netnsDir(), uid) }
func (r records) last() string            { return filepath.Join(r.dir, "last-address") }

func (r records) save(p podRecord) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("save pod record: %w", err)
	}
	if err := replaceFile(r.pod(p.UID), data); err != nil {
		return fmt.Errorf("save pod record: %w", err)
	}
	return nil
}

func (r records) saveLast(addr netip.Addr) error {
	if err := replaceFile(r.last(), []byte(addr.String())); err != nil {
		return fmt.Errorf("save last address: %w", err)
	}
	return nil
}

// replaceFile is atomic against a killed daemon. It does not sync: what a host
// crash could lose is gone with the pods it speaks of.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), newFile+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
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
	if err := os.Remove(r.pod(uid)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pod record: %w", err)
	}
	return nil
}

// load reads all records; files that a killed daemon left half-written are
// removed, and one that cannot be read is an error that names it.
func (r records) load() ([]podRecord, error) {
	entries, err := os.ReadDir(r.podsDir())
	if err != nil {
		return nil, fmt.Errorf("list pod records: %w", err)
	}
	var out []podRecord
	for _, e := range entries {
		path := filepath.Join(r.podsDir(), e.Name())
		if strings.HasPrefix(e.Name(), newFile) {
			_ = os.Remove(path)
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read pod record: %w", err)
		}
		var p podRecord
		if err := json.Unmarshal(data, &p); err != nil || r.pod(p.UID) != path {
			return nil, fmt.Errorf("read pod record %s: it is damaged; remove the file and the pod's containers, then start again", path)
		}
		out = append(out, p)
	}
	return out, nil
}

func (r records) lastAddress() (netip.Addr, bool) {
	data, err := os.ReadFile(r.last())
	if err != nil {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(string(data))
	return addr, err == nil && addr.Is4()
}

// bootID changes with every start of the host.
func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
