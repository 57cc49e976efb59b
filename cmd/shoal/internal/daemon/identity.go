//go:build linux

package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"shoal/api/pki"
	"shoal/store"
)

const identityFile = "identity.json"

// identity is who this host is in its cell. It is written before the store of a
// host that joins is opened, and holds no secret.
type identity struct {
	Cell string    `json:"cell"` // pki.CellID of its authority
	Name string    `json:"name"`
	Tag  store.Tag `json:"tag"`
	// Joined: the cell's keys come from a peer and are never made here.
	Joined bool `json:"joined"`
	// Peers are where other members could be reached when they were last
	// looked at. A founder without any was alone.
	Peers []netip.AddrPort `json:"peers,omitempty"`
	// Left is why this host is no member any more, LeftAt since when.
	Left   string    `json:"left,omitempty"`
	LeftAt time.Time `json:"leftAt,omitzero"`
}

// loadIdentity returns nil when this host belongs to no cell yet.
func loadIdentity(dataDir string) (*identity, error) {
	path := filepath.Join(dataDir, identityFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var id identity
	if err == nil {
		err = json.Unmarshal(data, &id)
	}
	if err == nil && (id.Tag == 0 || id.Tag > store.MaxTag || id.Name == "" || id.Cell == "") {
		err = errors.New("it is incomplete")
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w; restore it from a backup, or run `shoal node forget` for this host on another one, remove the data directory and join again", path, err)
	}
	return &id, nil
}

func (id *identity) save(dataDir string) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	return pki.WriteFile(filepath.Join(dataDir, identityFile), append(data, '\n'), 0o600)
}

// check refuses a name other than the one the cell knows this host by.
func (id *identity) check(name string) error {
	if id.Name == name {
		return nil
	}
	return fmt.Errorf("this host is %s in its cell, and a member's name cannot change; start it with --name %s, or give --name %s another --data-dir", id.Name, id.Name, name)
}
