//go:build linux

package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "shoal/api/control/v1"
	"shoal/api/pki"
	"shoal/store"
	"shoal/store/backup"
)

const testRecords = 5000

// cell is a store and the keys of a cell, with the handler that serves them.
type cell struct {
	*peer
	url string
}

func newCell(t *testing.T) *cell {
	t.Helper()
	dir := t.TempDir()
	files, err := pki.Ensure(filepath.Join(dir, pkiDir), pki.Names{Node: "host1", DNS: []string{"localhost"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	db, err := Config{DataDir: dir}.openStore(t.Context(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{config: Config{Name: "host1", DataDir: dir, NodeIP: "192.0.2.1"}, files: files, db: db, listener: listener, log: slog.New(slog.DiscardHandler)}
	server := httptest.NewServer(p.extra()[v1.Prefix])
	t.Cleanup(func() {
		server.Close()
		if err := errors.Join(db.Close(), listener.Close()); err != nil {
			t.Error(err)
		}
	})
	return &cell{p, server.URL}
}

func (c *cell) put(t *testing.T, key, uid string, value []byte, ttl time.Duration) {
	t.Helper()
	if _, err := c.db.Update(t.Context(), store.Update{Key: key, Expect: store.Any, UID: uid, Value: value, TTL: ttl}); err != nil {
		t.Fatal(err)
	}
}

func (c *cell) awaitGone(t *testing.T, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if _, _, err := c.db.Get(key, store.Latest); errors.Is(err, store.ErrNotFound) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s is still there", key)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *cell) backup(t *testing.T) []byte {
	t.Helper()
	response, err := http.Get(c.url + v1.BackupPath)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	return content
}

func contents(t *testing.T, db *store.DB) map[string]store.Entry {
	t.Helper()
	entries, _, err := db.List(store.Range{Prefix: "/"}, store.Latest)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]store.Entry{}
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		e.Value = bytes.Clone(e.Value)
		found[e.Key] = e
	}
	return found
}

func write(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cell.backup")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A restored cell has the objects with their uids and the cell's keys; it is a
// new incarnation, without the peers there were.
func TestRestore(t *testing.T) {
	old := newCell(t)
	for n := range testRecords {
		old.put(t, fmt.Sprintf("/registry/pods/a/%05d", n), fmt.Sprintf("uid-%d", n), bytes.Repeat([]byte{byte(n)}, n%700), 0)
	}
	old.put(t, "/registry/secrets/a/large", "uid-l", bytes.Repeat([]byte("large"), store.MaxValueBytes/5), 0)
	old.put(t, "/registry/events/a/later", "uid-e", []byte("event"), time.Hour)
	old.put(t, "/registry/events/a/soon", "uid-s", []byte("event"), time.Second)
	old.put(t, "/shoal/keys/gossip", "uid-k", []byte("key"), 0)
	want := contents(t, old.db)
	for _, key := range []string{"/shoal/members/0123", "/shoal/claims/tags/1", "/registry/secrets/kube-system/bootstrap-token-abcdef", "/shoal/local/x"} {
		old.put(t, key, "uid-p", []byte("peer"), 0)
	}
	file := write(t, old.backup(t))
	delete(want, "/registry/events/a/soon")
	old.awaitGone(t, "/registry/events/a/soon") // the backup may still have it

	dir := filepath.Join(t.TempDir(), "data")
	var said bytes.Buffer
	if err := Restore(t.Context(), file, Config{DataDir: dir}, &said); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), fmt.Sprintf("%d records", len(want))) || !strings.Contains(said.String(), "shoal start --data-dir "+dir) {
		t.Errorf("said %q", said.String())
	}
	if _, err := os.Stat(filepath.Join(dir, restoringDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", restoringDir, err)
	}
	db, err := Config{DataDir: dir}.openStore(t.Context(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if db.Actor() == old.db.Actor() {
		t.Error("the restored peer writes as the old one did")
	}
	have := contents(t, db)
	for key, w := range want {
		h, ok := have[key]
		if !ok || h.UID != w.UID || !bytes.Equal(h.Value, w.Value) || (h.ExpiresMicros == 0) != (w.ExpiresMicros == 0) {
			t.Fatalf("%s: have %v uid %s (%d bytes), want uid %s (%d bytes)", key, ok, h.UID, len(h.Value), w.UID, len(w.Value))
		}
	}
	if len(have) != len(want) {
		t.Errorf("%d records, want %d", len(have), len(want))
	}
	sameCell(t, old.files, dir)
}

// A record ends when it would have ended.
func TestRestoreKeepsTheEnd(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	const hour = uint64(time.Hour / time.Microsecond)
	end := uint64(now.Sub(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)) / time.Microsecond)
	for _, test := range []struct {
		expires uint64
		wanted  bool
		ttl     time.Duration
	}{{0, true, 0}, {end + hour, true, time.Hour}, {end, false, 0}, {end - hour, false, 0}} {
		u, wanted := restored(backup.Entry{Kind: backup.Record, Name: "/registry/events/a/b", ExpiresMicros: test.expires}, now)
		if wanted != test.wanted || wanted && u.TTL != test.ttl {
			t.Errorf("%d: wanted %v with %s left; want %v with %s", test.expires, wanted, u.TTL, test.wanted, test.ttl)
		}
	}
}

// sameCell checks that an old client certificate is good in the restored cell.
func sameCell(t *testing.T, old pki.Files, dir string) {
	t.Helper()
	files, err := pki.Ensure(filepath.Join(dir, pkiDir), pki.Names{Node: "host9", DNS: []string{"localhost"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(files.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	admin, err := tls.LoadX509KeyPair(old.Admin, old.AdminKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("the old kubeconfig is no longer good: %v", err)
	}
	before, err := os.ReadFile(old.ServiceAccountKey)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(files.ServiceAccountKey)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("tokens are signed with another key: %v", err)
	}
	if info, err := os.Stat(files.CAKey); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the CA key: %v, %v", info.Mode(), err)
	}
}

// What cannot be restored leaves the directory as it was.
func TestRestoreRefuses(t *testing.T) {
	old := newCell(t)
	for n := range 50 {
		old.put(t, fmt.Sprintf("/registry/pods/a/%d", n), "u", []byte("pod"), 0)
	}
	whole := old.backup(t)
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	used := t.TempDir()
	if err := os.WriteFile(filepath.Join(used, "daemon.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	killed := t.TempDir()
	if err := os.Mkdir(filepath.Join(killed, restoringDir), 0o700); err != nil {
		t.Fatal(err)
	}
	running := t.TempDir()
	held, err := acquireLock(running)
	if err != nil {
		t.Fatal(err)
	}
	defer held.release()
	for _, test := range []struct{ name, file, dir, says string }{
		{"cut short", write(t, whole[:len(whole)-100]), "", "cut short after"},
		{"one bit flipped", write(t, flipped), "", "not a whole backup"},
		{"no backup", write(t, []byte("apiVersion: v1\n")), "", "does not begin as one"},
		{"empty", write(t, nil), "", "does not begin as one"},
		{"not there", filepath.Join(t.TempDir(), "none"), "", "no such file"},
		{"directory in use", write(t, whole), used, "is not empty (daemon.json)"},
		{"left by a killed restore", write(t, whole), killed, "remove " + filepath.Join(killed, restoringDir)},
		{"daemon runs", write(t, whole), running, "already runs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := test.dir
			if dir == "" {
				dir = filepath.Join(t.TempDir(), "data")
			}
			err := Restore(t.Context(), test.file, Config{DataDir: dir}, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q", err, test.says)
			}
			for _, part := range []string{pkiDir, storeDir} {
				if _, err := os.Stat(filepath.Join(dir, part)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s was made: %v", part, err)
				}
			}
		})
	}
}

// A disk that fills up in the middle ends the restore with that as the reason,
// and nothing is left of it.
func TestRestoreOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	old := newCell(t)
	for n := range 200 {
		old.put(t, fmt.Sprintf("/registry/configmaps/a/%d", n), "u", bytes.Repeat([]byte{byte(n)}, 1<<20), 0)
	}
	file := write(t, old.backup(t))
	disk := t.TempDir()
	if err := syscall.Mount("shoal-restore-test", disk, "tmpfs", 0, "size=256m"); err != nil {
		t.Skipf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	err := Restore(t.Context(), file, Config{DataDir: filepath.Join(disk, "data")}, io.Discard)
	var full *store.NoSpaceError
	if !errors.As(err, &full) || errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want that the disk is full", err)
	}
	left, err := os.ReadDir(filepath.Join(disk, "data"))
	if err != nil || len(left) != 1 || left[0].Name() != lockFile {
		t.Errorf("left: %v, %v", left, err)
	}
}
