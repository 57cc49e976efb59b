package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	v1 "shoal/api/control/v1"
	"shoal/store"
)

// testHost is a host that remembers what it was told to do.
type testHost struct {
	mu    sync.Mutex
	deeds []string // guarded by mu
	disk  v1.Disk
	certs []v1.Certificate
}

func (h *testHost) did(deed string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deeds = append(h.deeds, deed)
}

func (h *testHost) Self() v1.Peer {
	return v1.Peer{Name: "host1", Address: "192.0.2.1", API: "192.0.2.1:6443", Version: "v1"}
}
func (h *testHost) Certificates() ([]v1.Certificate, error) { return h.certs, nil }
func (h *testHost) Disk() (v1.Disk, error)                  { return h.disk, nil }
func (h *testHost) Paths() []v1.Path                        { return nil }
func (h *testHost) CellFiles() (map[string][]byte, error) {
	return map[string][]byte{"pki/ca.crt": []byte("ca")}, nil
}
func (h *testHost) RemoveNode(_ context.Context, name string) error {
	h.did("remove node " + name)
	return nil
}
func (h *testHost) Depart(_ context.Context, keepPods bool) error {
	if keepPods {
		h.did("depart with pods kept")
	} else {
		h.did("depart")
	}
	return nil
}
func (h *testHost) Quit() { h.did("quit") }

// testMembers is a gossip of given peers.
type testMembers struct {
	host  *testHost
	peers []v1.Peer
	err   error
}

func (m *testMembers) Peers() []v1.Peer   { return append([]v1.Peer{}, m.peers...) }
func (m *testMembers) Alarms() []v1.Alarm { return nil }
func (m *testMembers) Leave(context.Context) error {
	m.host.did("leave")
	return m.err
}
func (m *testMembers) Forget(_ context.Context, name string) error {
	m.host.did("forget " + name)
	return m.err
}
func (m *testMembers) RotateKeys(context.Context) error {
	m.host.did("rotate")
	return m.err
}

// testEncryption is off until it is switched on.
type testEncryption struct {
	host *testHost
	on   bool
	err  error
}

func (e *testEncryption) Encrypts(context.Context) (bool, error) { return e.on, e.err }
func (e *testEncryption) SetEncryption(_ context.Context, on bool) (bool, error) {
	e.host.did(fmt.Sprint("encrypt ", on))
	changed := on != e.on
	e.on = on
	return changed, e.err
}

var errDown = errors.New("the network is down")

func openStore(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func serve(t *testing.T, o Options) (*Server, string) {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Cell = "c0ffee"
	s := New(o)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

func put(t testing.TB, db *store.DB, key, uid, value string, ttl time.Duration) {
	t.Helper()
	_, err := db.Update(context.Background(), store.Update{Key: key, Expect: store.Absent, UID: uid, Value: []byte(value), TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, address string) *http.Response {
	t.Helper()
	response, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	return response
}
