package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/dgraph-io/ristretto/v2/z"
)

// DamagedError says that a file of the database is not what was written.
// Nothing was changed.
type DamagedError struct {
	File string
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s is damaged: %v; restore the whole directory from a copy of one moment, or a backup with `shoal restore`; in a cell with other hosts empty %s instead, and this host comes back by their records",
		e.File, e.Err, filepath.Dir(e.File))
}

func (e *DamagedError) Unwrap() error { return e.Err }

const manifestFile = "MANIFEST"

// unlistedDir has tables that the manifest does not name while it is found out
// whether anything in them is missing.
const unlistedDir = "unlisted"

// inspect compares the files of the database before badger opens them, as it
// takes a manifest that ends early for the whole, removes what that does not
// name, and panics in a goroutine of its own over a table that ends early.
func inspect(o Options, keys *keyring) error {
	names, err := filesOf(o.Dir)
	if err != nil {
		return err
	}
	path := filepath.Join(o.Dir, manifestFile)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		for _, name := range names {
			if ext := filepath.Ext(name); ext == ".sst" || ext == ".mem" {
				return &DamagedError{path, fmt.Errorf("it is missing, and %s is there", name)}
			}
		}
		return nil // a new database
	}
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	defer file.Close()
	manifest, _, err := badger.ReplayManifestFile(file, 0, badgerOptions(o, slog.New(slog.DiscardHandler)))
	if err != nil {
		return &DamagedError{path, err}
	}
	for id, t := range manifest.Tables {
		name := table.NewFilename(id, o.Dir)
		key, err := keys.dataKey(t.KeyID)
		if err == nil {
			err = withTable(name, t.Compression, key, func(t *table.Table) error { return t.VerifyChecksum() })
		}
		if err != nil {
			return &DamagedError{name, err}
		}
	}
	return keepUnlisted(o.Dir, names, manifest)
}

func filesOf(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look into the store's directory: %w", err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// withTable opens a table for reading; badger's panics over what it finds there
// become errors.
func withTable(name string, compression options.CompressionType, key *pb.DataKey, use func(*table.Table) error) (err error) {
	if info, err := os.Stat(name); err != nil {
		return err
	} else if info.Size() == 0 {
		return errors.New("it is empty")
	}
	mapped, err := z.OpenMmapFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%.200s", fmt.Sprint(r))
		}
		err = errors.Join(err, z.Munmap(mapped.Data), mapped.Fd.Close())
	}()
	o, done, err := forTable(table.Options{ReadOnly: true, Compression: compression, BlockSize: blockBytes, ChkMode: options.NoVerification}, key)
	if err != nil {
		return err
	}
	defer done()
	t, err := table.OpenTable(mapped, o)
	if err != nil {
		return err
	}
	return use(t)
}

// keepUnlisted keeps a second name of each table that the manifest does not
// name. After a crash there may be one that was just being made.
func keepUnlisted(dir string, names []string, manifest badger.Manifest) error {
	for _, name := range names {
		id, ok := table.ParseFileID(name)
		if _, listed := manifest.Tables[id]; !ok || listed || !strings.HasSuffix(name, ".sst") {
			continue
		}
		kept := filepath.Join(dir, unlistedDir)
		if err := os.MkdirAll(kept, 0o700); err != nil {
			return fmt.Errorf("keep a table that the manifest does not name: %w", err)
		}
		if err := os.Link(filepath.Join(dir, name), filepath.Join(kept, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("keep a table that the manifest does not name: %w", err)
		}
	}
	return nil
}

// checkUnlisted looks whether the database has all that is in tables which the
// manifest did not name: always after a crash, as those are made of what is
// elsewhere still, and not when the manifest lost its end.
func (db *DB) checkUnlisted() error {
	kept := filepath.Join(db.opts.Dir, unlistedDir)
	names, err := os.ReadDir(kept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for tables that the manifest does not name: %w", err)
	}
	for _, e := range names {
		missing, ok := db.missing(filepath.Join(kept, e.Name()))
		if !ok {
			continue // a crash while it was being made
		}
		if missing != "" {
			return &DamagedError{filepath.Join(db.opts.Dir, manifestFile), fmt.Errorf("it does not name %s, which has what nothing else has, as of %q; that table is kept as %s", e.Name(), missing, filepath.Join(kept, e.Name()))}
		}
	}
	return os.RemoveAll(kept)
}

// missing looks for what only this table has. Its data key is not noted anywhere:
// the one that makes its checksums right is it.
func (db *DB) missing(name string) (key string, ok bool) {
	for _, dataKey := range db.keys.all() {
		err := withTable(name, options.None, dataKey, func(t *table.Table) error {
			if err := t.VerifyChecksum(); err != nil {
				return err
			}
			key = db.firstMissing(t)
			return nil
		})
		if err == nil {
			return key, true
		}
	}
	return "", false
}

// firstMissing returns a key of which the table has a newer version than the
// database.
func (db *DB) firstMissing(t *table.Table) string {
	txn := db.badger.NewTransactionAt(uint64(Any), false)
	defer txn.Discard()
	it := t.NewIterator(0)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key := y.ParseKey(it.Key())
		if strings.HasPrefix(string(key), "!badger!") {
			continue
		}
		version := y.ParseTs(it.Key())
		if it.Value().Meta&deletedBit != 0 {
			continue // of what was erased nothing need be left
		}
		item, err := txn.Get(key)
		if errors.Is(err, badger.ErrKeyNotFound) {
			// Erased later, or never seen. Of what was erased badger keeps a mark until
			// the next compaction; the store's own log and reaped tombstones need none.
			if strings.HasPrefix(string(key), "/") && it.Value().UserMeta&metaTombstone == 0 && it.Value().UserMeta&metaExpires == 0 && !erasedAfter(txn, key, version) {
				return string(key)
			}
			continue
		}
		if err == nil && item.Version() < version {
			return string(key)
		}
	}
	return ""
}

// erasedAfter reports whether key was erased after version: a table may be made
// from a record that is deleted and reaped before the manifest names the table.
func erasedAfter(txn *badger.Txn, key []byte, version uint64) bool {
	o := badger.DefaultIteratorOptions
	o.AllVersions, o.PrefetchValues, o.Prefix = true, false, key
	it := txn.NewIterator(o)
	defer it.Close()
	for it.Seek(key); it.Valid(); it.Next() {
		item := it.Item()
		if string(item.Key()) == string(key) && item.IsDeletedOrExpired() && item.Version() > version {
			return true
		}
	}
	return false
}

// deletedBit is badger's mark of an erased key.
const deletedBit = 1
