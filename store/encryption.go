package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2"
)

// KeyBytes is the length of a key: AES-256.
const KeyBytes = 32

const (
	// blockCacheBytes and indexCacheBytes hold what was decrypted lately; without
	// encryption badger reads where files are mapped and has no cache. The index
	// of a table is about 10 KB, so all of a store of 165,000 records fit.
	blockCacheBytes = 4 << 20
	indexCacheBytes = 4 << 20
	// dataKeyLife is how long badger encrypts new files with one data key.
	dataKeyLife = 10 * 24 * time.Hour
	// freshKeyLife is that of a database that was just given another key: what
	// the old key could open must not open what is written from now on.
	freshKeyLife = time.Minute
)

// ErrOtherKey says that none of the keys given opens the database.
var ErrOtherKey = errors.New("the store is encrypted with another key")

// keyring is what a database's files are encrypted with: badger has a data key
// for each span of time, kept in a registry that the first of our keys encrypts.
type keyring struct {
	keys [][]byte
	// fresh: the registry was encrypted with another key until now.
	fresh bool
	// registry has the data keys as of opening; nil without encryption.
	registry *badger.KeyRegistry
}

// openKeyring finds the key that opens the registry in dir, and makes it the
// first of keys. Files without encryption, of before there was a key, stay
// readable; what is written from now on is encrypted.
func openKeyring(dir string, keys [][]byte) (*keyring, error) {
	for _, key := range keys {
		if len(key) != KeyBytes {
			return nil, fmt.Errorf("open store: a key has %d bytes, want %d", len(key), KeyBytes)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, badger.KeyRegistryFileName)); errors.Is(err, fs.ErrNotExist) {
		return &keyring{keys: keys}, nil // a new database: badger makes it
	}
	if err := trimRegistry(filepath.Join(dir, badger.KeyRegistryFileName)); err != nil {
		return nil, err
	}
	ring := &keyring{keys: keys}
	for i, key := range append(append([][]byte{}, keys...), nil) {
		registry, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: dir, ReadOnly: true, EncryptionKey: key})
		if errors.Is(err, badger.ErrEncryptionKeyMismatch) {
			continue
		}
		if err != nil {
			return nil, &DamagedError{filepath.Join(dir, badger.KeyRegistryFileName), err}
		}
		ring.registry = registry
		if i == 0 || len(keys) == 0 {
			return ring, nil
		}
		// Written beside and renamed: after a crash one of the two keys opens it.
		ring.fresh = true
		err = badger.WriteKeyRegistry(registry, badger.KeyRegistryOptions{Dir: dir, EncryptionKey: keys[0]})
		if err != nil {
			return nil, fmt.Errorf("encrypt the store's data keys with another key: %w", err)
		}
		return ring, nil
	}
	return nil, fmt.Errorf("open store in %s: %w", dir, ErrOtherKey)
}

// trimRegistry cuts off a data key that a power failure left half written: its
// write had not been answered, so no file is encrypted with it. Badger takes it
// for damage.
func trimRegistry(path string) error {
	// A random start of the cipher and a text that tells the right key, then for
	// each data key its length, its checksum and itself.
	const head, prefix = 16 + 12, 8
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	if len(data) < head {
		return &DamagedError{path, errors.New("it ends early")}
	}
	whole := head
	for whole+prefix <= len(data) {
		length := int64(binary.BigEndian.Uint32(data[whole:]))
		if int64(whole+prefix)+length > int64(len(data)) {
			break
		}
		whole += prefix + int(length)
	}
	if whole == len(data) {
		return nil
	}
	if err := os.Truncate(path, int64(whole)); err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	return nil
}

// Encrypted reports whether the database in dir is encrypted. One that is not
// there is not.
func Encrypted(dir string) (bool, error) {
	path := filepath.Join(dir, badger.KeyRegistryFileName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	_, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: dir, ReadOnly: true})
	if errors.Is(err, badger.ErrEncryptionKeyMismatch) {
		return true, nil
	}
	if err != nil {
		return false, &DamagedError{path, err}
	}
	return false, nil
}

// apply makes badger encrypt with the ring's first key.
func (k *keyring) apply(o badger.Options) badger.Options {
	if len(k.keys) == 0 {
		return o
	}
	life := dataKeyLife
	if k.fresh {
		life = freshKeyLife
	}
	return o.WithEncryptionKey(k.keys[0]).WithEncryptionKeyRotationDuration(life).
		WithBlockCacheSize(blockCacheBytes).WithIndexCacheSize(indexCacheBytes)
}

// dataKey is the data key with id; nil is none, of a table that is not encrypted.
func (k *keyring) dataKey(id uint64) (*pb.DataKey, error) {
	if k.registry == nil {
		if id == 0 {
			return nil, nil
		}
		return nil, fmt.Errorf("it is encrypted, and %s is missing", badger.KeyRegistryFileName)
	}
	return k.registry.DataKey(id)
}

// all lists the data keys, the newest first, and none at the end. Badger counts
// them from 1 on.
func (k *keyring) all() []*pb.DataKey {
	keys := []*pb.DataKey{nil}
	for id := uint64(1); k.registry != nil; id++ {
		key, err := k.registry.DataKey(id)
		if err != nil {
			break
		}
		keys = append([]*pb.DataKey{key}, keys...)
	}
	return keys
}

// forTable is how to read a table encrypted with key. done lets go of what that
// takes.
func forTable(o table.Options, key *pb.DataKey) (_ table.Options, done func(), err error) {
	if key == nil {
		return o, func() {}, nil
	}
	const indexes = 8 // one table is read at a time
	cache, err := ristretto.NewCache(&ristretto.Config[uint64, *fb.TableIndex]{NumCounters: 8 * indexes, MaxCost: indexCacheBytes, BufferItems: 64})
	if err != nil {
		return o, nil, fmt.Errorf("read an encrypted table: %w", err)
	}
	o.DataKey, o.IndexCache = key, cache
	return o, cache.Close, nil
}
