//go:build linux

package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal/api/pki"
	"shoal/store"
	"shoal/store/backup"
)

const (
	// restoreWriters share the store's group commits; with 64 a sync is paid by
	// as many records.
	restoreWriters = 64
	// restoringDir is below the data directory and gone once all is in place.
	restoringDir = "restoring"
)

// peersOwn are records of the peers there were: who they are, their numbers,
// and the tokens that more were to join with. A new cell begins without them;
// a token that was used up since must not be good again.
var peersOwn = []string{"/shoal/members/", "/shoal/claims/tags/", "/registry/secrets/kube-system/bootstrap-token-"}

// Restore makes a cell of one peer in the data directory of to from the backup in
// file; of to its StoreKeyFile counts too. No daemon
// runs on it; the next start serves the cell. The peer is a new incarnation:
// its store has an actor of its own, whatever the backup was taken from.
//
// What always holds: that directory is empty before and whole after, or empty still;
// nothing is written before all of file was verified.
func Restore(ctx context.Context, file string, to Config, out io.Writer) (err error) {
	dataDir, err := filepath.Abs(orDefault(to.DataDir, DefaultDataDir))
	if err != nil {
		return fmt.Errorf("resolve data directory: %w", err)
	}
	keyFile := to.StoreKeyFile
	if keyFile != "" {
		if keyFile, err = filepath.Abs(keyFile); err != nil {
			return fmt.Errorf("resolve --store-key-file: %w", err)
		}
	}
	source, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open backup: %w", err)
	}
	defer func() { _ = source.Close() }()
	header, err := verify(source)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := checkEmpty(dataDir); err != nil {
		return err
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	held, err := acquireLock(dataDir)
	if err != nil {
		return err
	}
	defer held.release()
	building := filepath.Join(dataDir, restoringDir)
	defer func() { err = errors.Join(err, os.RemoveAll(building)) }()
	restored, err := build(ctx, source, building, keyFile)
	if err != nil {
		return fmt.Errorf("restore %s: %w; %s is as empty as before", file, err, dataDir)
	}
	parts := []string{pkiDir, storeDir}
	if keyFile == "" {
		parts = append(parts, storeKeyFile)
	}
	for _, part := range parts {
		if err := os.Rename(filepath.Join(building, part), filepath.Join(dataDir, part)); err != nil {
			return fmt.Errorf("put the restored %s in place: %w", part, err)
		}
	}
	_, err = fmt.Fprintf(out, "cell %s of %s restored: %d records\nServe it with `shoal start%s`; other hosts join it anew.\n",
		header.Cell, header.Time.Format(time.RFC3339), restored, dataDirFlag(dataDir))
	return err
}

func dataDirFlag(dataDir string) string {
	if dataDir == DefaultDataDir {
		return ""
	}
	return " --data-dir " + dataDir
}

// verify reads all of the backup and goes back to its start.
func verify(source io.ReadSeeker) (backup.Header, error) {
	reader, err := backup.NewReader(source)
	if err != nil {
		return backup.Header{}, err
	}
	if _, err := reader.Verify(); err != nil {
		return backup.Header{}, err
	}
	_, err = source.Seek(0, io.SeekStart)
	return reader.Header(), err
}

// checkEmpty refuses a directory with anything in it but our lock.
func checkEmpty(dataDir string) error {
	entries, err := os.ReadDir(dataDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look into data directory: %w", err)
	}
	for _, e := range entries {
		switch e.Name() {
		case lockFile, "lost+found":
		case restoringDir:
			return fmt.Errorf("%s has what an earlier restore left when it was killed; remove %s and try again", dataDir, filepath.Join(dataDir, restoringDir))
		default:
			return fmt.Errorf("%s is not empty (%s): a backup is restored into an empty data directory; stop the daemon and move the directory away, or give another with --data-dir", dataDir, e.Name())
		}
	}
	return nil
}

// build writes the parts of a data directory below dir.
func build(ctx context.Context, source io.Reader, dir, keyFile string) (records int, err error) {
	if err := os.MkdirAll(filepath.Join(dir, pkiDir), 0o700); err != nil {
		return 0, fmt.Errorf("create directory: %w", err)
	}
	db, err := Config{DataDir: dir, StoreKeyFile: keyFile}.openStore(ctx, store.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	reader, err := backup.NewReader(source)
	if err != nil {
		return 0, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(restoreWriters)
	for {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && entry.Kind == backup.File {
			err = restoreFile(dir, entry)
		}
		if err != nil {
			// A write that failed is why the context ended.
			return 0, cmp.Or(group.Wait(), err)
		}
		update, wanted := restored(entry, time.Now())
		if !wanted {
			continue
		}
		records++
		group.Go(func() error {
			_, err := db.Update(ctx, update)
			return err
		})
	}
	return records, group.Wait()
}

// restored is the write that brings an entry back; what belonged to the old
// peers, and what has ended since, is not.
func restored(entry backup.Entry, now time.Time) (u store.Update, wanted bool) {
	if entry.Kind != backup.Record {
		return u, false
	}
	for _, prefix := range peersOwn {
		if strings.HasPrefix(entry.Name, prefix) {
			return u, false
		}
	}
	u = store.Update{Key: entry.Name, Expect: store.Absent, UID: entry.UID, Value: bytes.Clone(entry.Content)}
	record := store.Record{ExpiresMicros: entry.ExpiresMicros}
	if expires := record.Expires(); !expires.IsZero() {
		if u.TTL = expires.Sub(now); u.TTL <= 0 {
			return u, false
		}
	}
	return u, true
}

// restoreFile writes one of the files that may be in a backup, and no other.
func restoreFile(dir string, entry backup.Entry) error {
	for _, name := range pki.CellFiles() {
		if filepath.Join(pkiDir, name) == entry.Name {
			return pki.WriteFile(filepath.Join(dir, entry.Name), entry.Content, 0o600)
		}
	}
	return fmt.Errorf("the backup has a file this shoal does not know: %q", entry.Name)
}
