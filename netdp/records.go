package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"shoal/netdp/podfile"
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

// PodUID implements podfile.Record.
func (p podRecord) PodUID() string { return p.UID }

// records keeps one file for each pod in dir/pods, and the address handed out
// last in dir/last-address. Nothing is synced: what a crash of the host could lose
// is gone with the pods it speaks of.
type records struct {
	podfile.Store[podRecord]
	dir string
}

func openRecords(dir string) (records, error) {
	r := records{dir: dir, Store: podfile.Store[podRecord]{
		Dir: filepath.Join(dir, "pods"), Repair: "remove the file and the pod's containers",
	}}
	for _, sub := range []string{r.Dir, r.netnsDir()} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return r, fmt.Errorf("create state directory: %w", err)
		}
	}
	return r, errors.Join(podfile.DropUnfinished(dir), podfile.DropUnfinished(r.Dir))
}

func (r records) netnsDir() string        { return filepath.Join(r.dir, "netns") }
func (r records) netns(uid string) string { return filepath.Join(r.netnsDir(), uid) }
func (r records) last() string            { return filepath.Join(r.dir, "last-address") }

func (r records) saveLast(addr netip.Addr) error {
	if err := podfile.Replace(r.last(), []byte(addr.String())); err != nil {
		return fmt.Errorf("save last address: %w", err)
	}
	return nil
}

func (r records) lastAddress() (netip.Addr, bool) {
	data, err := os.ReadFile(r.last())
	if err != nil {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(string(data))
	return addr, err == nil && addr.Is4()
}
