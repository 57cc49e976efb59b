//go:build linux

package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"shoal/api/pki"
	"shoal/store"
)

// storeKeyFile is where the store's key is unless the configuration names
// another file.
const storeKeyFile = "store.key"

// maxStoreKeys bounds the keys in a file: the one to use from now on, and those
// that may not have been replaced yet because no daemon started since.
const maxStoreKeys = 16

const storeKeyHead = "# The key this host's store is encrypted with: base64, the first is used, the\n" +
	"# others are replaced by it at the next start. Without it the store is lost.\n"

func (c Config) storeKeyPath() string {
	if c.StoreKeyFile != "" {
		return c.StoreKeyFile
	}
	return filepath.Join(c.DataDir, storeKeyFile)
}

// openStore opens the store with the keys of its file, and lets go of those that
// are replaced then. The first start of a host makes one.
func (c Config) openStore(ctx context.Context, o store.Options) (*store.DB, error) {
	keys, err := c.storeKeys()
	if err != nil {
		return nil, err
	}
	o.Dir, o.Keys = filepath.Join(c.DataDir, storeDir), keys
	db, err := store.Open(ctx, o)
	if errors.Is(err, store.ErrOtherKey) {
		return nil, fmt.Errorf("%w than those in %s; name the right one with --store-key-file", err, c.storeKeyPath())
	}
	if err != nil {
		return nil, err
	}
	if err := c.trimStoreKeys(keys[0]); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// storeKeys reads the store's keys, or makes one for a host that has none.
func (c Config) storeKeys() ([][]byte, error) {
	path := c.storeKeyPath()
	keys, err := readStoreKeys(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	encrypted, statErr := store.Encrypted(filepath.Join(c.DataDir, storeDir))
	if statErr != nil {
		return nil, statErr
	}
	if encrypted {
		return nil, fmt.Errorf("%w: the store in %s is encrypted with it; put the file back, or name it with --store-key-file", err, c.DataDir)
	}
	key, err := newStoreKey()
	if err != nil {
		return nil, err
	}
	return [][]byte{key}, writeStoreKeys(path, [][]byte{key})
}

func newStoreKey() ([]byte, error) {
	key := make([]byte, store.KeyBytes)
	if _, err := io.ReadFull(rand.Reader, key); err != nil {
		return nil, fmt.Errorf("make a key for the store: %w", err)
	}
	return key, nil
}

func readStoreKeys(path string) ([][]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the store's key: %w", err)
	}
	var keys [][]byte
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != store.KeyBytes {
			return nil, fmt.Errorf("read the store's key: %s: want %d bytes in base64 in each line; put back the file as it was", path, store.KeyBytes)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("read the store's key: %s has none; put back the file as it was", path)
	}
	return keys, nil
}

func writeStoreKeys(path string, keys [][]byte) error {
	var b strings.Builder
	b.WriteString(storeKeyHead)
	for _, key := range keys {
		b.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	}
	if err := pki.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write the store's key: %w", err)
	}
	return nil
}

// trimStoreKeys lets go of the keys that the opened store no longer needs, but
// not of one that was put in front meanwhile.
func (c Config) trimStoreKeys(used []byte) error {
	path := c.storeKeyPath()
	keys, err := readStoreKeys(path)
	if err != nil {
		return err
	}
	for i, key := range keys {
		if bytes.Equal(key, used) {
			if i+1 == len(keys) {
				return nil
			}
			return writeStoreKeys(path, keys[:i+1])
		}
	}
	return nil
}

// RotateStoreKey puts a new key in front of those of the host whose data is in
// dataDir. The store is encrypted with it from the next start on.
func RotateStoreKey(dataDir string) (path string, err error) {
	config, err := Load(dataDir)
	if err != nil {
		return "", err
	}
	path = config.storeKeyPath()
	keys, err := readStoreKeys(path)
	if err != nil {
		return "", err
	}
	if len(keys) >= maxStoreKeys {
		return "", fmt.Errorf("rotate the store's key: %s has %d keys that no start has used yet; start the daemon first", path, len(keys))
	}
	key, err := newStoreKey()
	if err != nil {
		return "", err
	}
	return path, writeStoreKeys(path, append([][]byte{key}, keys...))
}
