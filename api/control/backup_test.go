package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "shoal/api/control/v1"
	"shoal/store"
	"shoal/store/backup"
)

// takeBackup reads one over HTTP and returns what is in it by name.
func takeBackup(t *testing.T, url string) (backup.Header, map[string]backup.Entry) {
	t.Helper()
	response := get(t, url+v1.BackupPath)
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		t.Fatal(response.Status)
	}
	reader, err := backup.NewReader(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]backup.Entry{}
	for {
		e, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return reader.Header(), found
		}
		if err != nil {
			t.Fatal(err)
		}
		e.Content = append([]byte(nil), e.Content...)
		found[e.Name] = e
	}
}

// All that is replicated is in a backup, with uid and end of life; what is
// deleted and what is the peer's own is not.
func TestBackupHasEverything(t *testing.T) {
	db := openStore(t)
	put(t, db, "/registry/secrets/a/b", "u-1", "secret", 0)
	put(t, db, "/registry/events/a/b", "u-2", "event", time.Hour)
	put(t, db, "/shoal/keys/gossip", "u-3", "key", 0)
	put(t, db, "/shoal/local/x", "u-4", "mine", 0)
	put(t, db, "/registry/pods/a/gone", "u-5", "pod", 0)
	if _, err := db.Update(t.Context(), store.Update{Key: "/registry/pods/a/gone", Expect: store.Any, Delete: true}); err != nil {
		t.Fatal(err)
	}
	_, url := serve(t, Options{Store: db, Host: &testHost{}})
	header, found := takeBackup(t, url)
	if header.Records != 3 || header.Files != 1 || header.Cell != "c0ffee" || header.Peer != "host1" || header.Version != uint64(db.Version()) {
		t.Errorf("header %+v", header)
	}
	if len(found) != 4 {
		t.Errorf("got %d entries: %v", len(found), found)
	}
	if e := found["/registry/secrets/a/b"]; string(e.Content) != "secret" || e.UID != "u-1" || e.ExpiresMicros != 0 {
		t.Errorf("secret: %+v", e)
	}
	if e := found["/registry/events/a/b"]; e.ExpiresMicros == 0 {
		t.Errorf("event without an end: %+v", e)
	}
	if e := found["pki/ca.crt"]; e.Kind != backup.File || string(e.Content) != "ca" {
		t.Errorf("file: %+v", e)
	}
}

// Objects are written in pairs, the second after the first was answered, and
// both are changed and deleted in that order. However a backup falls among
// that, it has a state that was.
func TestBackupWhileWriting(t *testing.T) {
	const writers, backups, before = 8, 6, 2000
	db := openStore(t)
	for n := range before {
		put(t, db, fmt.Sprintf("/registry/old/%05d", n), fmt.Sprint("u", n), strings.Repeat("x", 500), 0)
	}
	_, url := serve(t, Options{Store: db, Host: &testHost{}})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, writers)
	for w := range writers {
		go func() { done <- writePairs(ctx, db, w) }()
	}
	pairs := 0
	for i := 0; i < backups || pairs == 0 && i < 100*backups; i++ {
		header, found := takeBackup(t, url)
		if int64(len(found)) != header.Records+1 {
			t.Errorf("header says %d records, there are %d", header.Records, len(found)-1)
		}
		for name, second := range found {
			w, n, ok := strings.Cut(strings.TrimPrefix(name, "/registry/second/"), "/")
			if !ok || !strings.HasPrefix(name, "/registry/second/") {
				continue
			}
			pairs++
			if _, ok := found["/registry/first/"+w+"/"+n]; !ok {
				t.Errorf("pair %s/%s is half there: %q", w, n, second.Content)
			}
		}
	}
	stop()
	for range writers {
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if pairs == 0 {
		t.Error("no backup fell among the writes")
	}
}

func writePairs(ctx context.Context, db *store.DB, writer int) error {
	for n := 0; ctx.Err() == nil; n++ {
		for _, u := range []store.Update{
			{Key: fmt.Sprintf("/registry/first/%d/%d", writer, n), UID: "f", Value: []byte("1"), Expect: store.Absent},
			{Key: fmt.Sprintf("/registry/second/%d/%d", writer, n), UID: "s", Value: []byte("2"), Expect: store.Absent},
		} {
			if _, err := db.Update(ctx, u); err != nil {
				return err
			}
		}
		if n%3 != 0 {
			continue
		}
		for _, half := range []string{"second", "first"} {
			key := fmt.Sprintf("/registry/%s/%d/%d", half, writer, n)
			if _, err := db.Update(ctx, store.Update{Key: key, Expect: store.Any, Delete: true}); err != nil {
				return err
			}
		}
	}
	return nil
}

// A backup that cannot be finished breaks off, and the reader knows.
func TestBackupBreaksOff(t *testing.T) {
	db := openStore(t)
	for n := range 200 {
		put(t, db, fmt.Sprintf("/registry/pods/a/%03d", n), fmt.Sprint("u", n), strings.Repeat("x", 1000), 0)
	}
	_, url := serve(t, Options{Store: failingStore{db, 100}, Host: &testHost{}})
	response := get(t, url+v1.BackupPath)
	defer func() { _ = response.Body.Close() }()
	reader, err := backup.NewReader(response.Body)
	if err == nil {
		_, err = reader.Verify()
	}
	if err == nil {
		t.Fatal("it was taken for whole")
	}
}

// failingStore reads some records and then fails, as a damaged disk does.
type failingStore struct {
	*store.DB
	after int
}

func (s failingStore) List(r store.Range, at store.Version) (iter.Seq2[store.Entry, error], store.Version, error) {
	all, at, err := s.DB.List(r, at)
	return func(yield func(store.Entry, error) bool) {
		n := 0
		for e, err := range all {
			if n++; n > s.after {
				yield(store.Entry{}, errDown)
				return
			}
			if !yield(e, err) {
				return
			}
		}
	}, at, err
}

// More than a few at once are sent away, and counted down again.
func TestBackupsAreBounded(t *testing.T) {
	s, url := serve(t, Options{Store: openStore(t), Host: &testHost{}})
	for range maxBackups {
		s.backups <- struct{}{}
	}
	response := get(t, url+v1.BackupPath)
	_ = response.Body.Close()
	if response.StatusCode != http.StatusTooManyRequests {
		t.Errorf("got %s", response.Status)
	}
	for range maxBackups {
		<-s.backups
	}
	takeBackup(t, url)
}
