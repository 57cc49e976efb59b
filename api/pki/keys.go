package pki

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// KeysPrefix is where the store keeps what a whole cell shares. Records below
// it travel between peers and never through the API.
const KeysPrefix = "/shoal/keys/"

// Keys is what every peer of a cell shares, each as its file holds it.
type Keys struct {
	CA, CAKey                     []byte // PEM
	FrontProxyCA, FrontProxyCAKey []byte // PEM
	ServiceAccountKey             []byte // PEM
	// Gossip is the encryption keyring, in the form of EncodeRing.
	Gossip []byte
}

// Records is what the cell's keys need of the store.
type Records interface {
	// CreateRecord writes key unless it exists; created says which.
	CreateRecord(ctx context.Context, key string, value []byte) (created bool, err error)
	// ListRecords returns the records below prefix by key.
	ListRecords(ctx context.Context, prefix string) (map[string][]byte, error)
}

// ErrNoKeys says that the cell's keys, or some of them, are not here (yet): on
// a host that joined, they come with the first snapshot from a peer.
var ErrNoKeys = errors.New("the cell's keys are not complete on this host")

// ErrOtherCell says that the files on this host and the records in its store
// belong to different cells.
var ErrOtherCell = errors.New("files and store are of different cells")

// shared pairs a file's name, which also ends its record's key, with its content.
type shared struct {
	name  string
	path  string
	value *[]byte
	mode  os.FileMode
	// rotates: the record is newer than the file where they differ.
	rotates bool
}

func (k *Keys) parts(files Files) []shared {
	parts := []shared{
		{path: files.CA, value: &k.CA, mode: 0o644},
		{path: files.CAKey, value: &k.CAKey, mode: 0o600},
		{path: files.FrontProxyCA, value: &k.FrontProxyCA, mode: 0o644},
		{path: files.FrontProxyCAKey, value: &k.FrontProxyCAKey, mode: 0o600},
		{path: files.ServiceAccountKey, value: &k.ServiceAccountKey, mode: 0o600},
		{path: files.GossipKeys, value: &k.Gossip, mode: 0o600, rotates: true},
	}
	for i := range parts {
		parts[i].name = filepath.Base(parts[i].path)
	}
	return parts
}

// ReadKeys returns the cell's keys from the store. The error wraps ErrNoKeys,
// and names what is missing, unless all are there.
func ReadKeys(ctx context.Context, records Records) (Keys, error) {
	var k Keys
	found, err := records.ListRecords(ctx, KeysPrefix)
	if err != nil {
		return k, fmt.Errorf("read the cell's keys: %w", err)
	}
	var missing []string
	for _, part := range k.parts(FilesIn("")) {
		*part.value = found[KeysPrefix+part.name]
		if len(*part.value) == 0 {
			missing = append(missing, part.name)
		}
	}
	if len(missing) > 0 {
		return k, fmt.Errorf("%w: no record of %s", ErrNoKeys, strings.Join(missing, ", "))
	}
	return k, nil
}

// Found makes a cell on its first host, or goes on with one: shared keys come
// from the files in dir and from records, each repaired from the other, and are
// made where both have none. The host's own certificates are then made as in
// Ensure.
func Found(ctx context.Context, dir string, records Records, names Names, now time.Time) (Files, error) {
	files := FilesIn(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return files, fmt.Errorf("create pki directory: %w", err)
	}
	kept, err := ReadKeys(ctx, records)
	if err != nil && !errors.Is(err, ErrNoKeys) {
		return files, err
	}
	if err := restore(files, kept); err != nil {
		return files, err
	}
	if err := ensureShared(files, now); err != nil {
		return files, err
	}
	if err := publish(ctx, files, records, kept); err != nil {
		return files, err
	}
	_, err = ensureLeaves(files, names, now, leafLife)
	return files, err
}

// Materialize writes the shared keys of a cell below dir and makes the host's
// own certificates from them, as a host does that has joined.
func Materialize(dir string, keys Keys, names Names, now time.Time) (Files, error) {
	files := FilesIn(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return files, fmt.Errorf("create pki directory: %w", err)
	}
	for _, part := range keys.parts(files) {
		if len(*part.value) == 0 {
			return files, fmt.Errorf("write the cell's keys: %w: no %s", ErrNoKeys, part.name)
		}
	}
	if err := restore(files, keys); err != nil {
		return files, err
	}
	if err := ensureShared(files, now); err != nil { // derives sa.pub, and proves that keys fit
		return files, err
	}
	_, err := ensureLeaves(files, names, now, leafLife)
	return files, err
}

// restore writes the files that are missing or damaged from keys. A file that
// is whole and says otherwise belongs to another cell.
func restore(files Files, keys Keys) error {
	for _, part := range keys.parts(files) {
		if len(*part.value) == 0 {
			continue
		}
		have, err := os.ReadFile(part.path)
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("read %s: %w", part.path, err)
		}
		switch {
		case bytes.Equal(have, *part.value):
			continue
		case err == nil && !part.rotates && whole(have):
			return fmt.Errorf("%w: %s is not what the store holds; put back the file or the store that belongs here, or remove the data directory and join the cell again", ErrOtherCell, part.path)
		}
		if err := WriteFile(part.path, *part.value, part.mode); err != nil {
			return err
		}
	}
	return nil
}

// whole reports whether data is one PEM block and nothing else.
func whole(data []byte) bool {
	block, rest := pem.Decode(data)
	return block != nil && len(bytes.TrimSpace(rest)) == 0
}

// publish creates the records that kept lacks from the files.
func publish(ctx context.Context, files Files, records Records, kept Keys) error {
	for _, part := range kept.parts(files) {
		if len(*part.value) > 0 {
			continue
		}
		data, err := os.ReadFile(part.path)
		if err != nil {
			return fmt.Errorf("read %s: %w", part.path, err)
		}
		if _, err := records.CreateRecord(ctx, KeysPrefix+part.name, data); err != nil {
			return fmt.Errorf("keep %s in the store: %w", part.name, err)
		}
	}
	return nil
}
