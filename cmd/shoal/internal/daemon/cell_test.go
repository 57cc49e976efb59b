//go:build linux

package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/api"
	"shoal/api/joining"
	"shoal/api/pki"
	"shoal/gossip/join"
	"shoal/gossip/join/token"
	"shoal/store"
	"shoal/test/harness"
)

// tokenShelf keeps tokens where a running peer has the API.
type tokenShelf struct {
	mu     sync.Mutex
	tokens map[string]token.Stored // guarded by mu
}

func (s *tokenShelf) Token(_ context.Context, id string) (token.Stored, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tokens[id]
	return t, ok, nil
}

func (s *tokenShelf) Use(context.Context, string, string) (bool, error) { return true, nil }

type noNames struct{}

func (noNames) Alive(string) bool                           { return false }
func (noNames) Known(context.Context, string) (bool, error) { return false, nil }

func newPeer(t *testing.T, config Config) *peer {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	config.NodeIP = harness.NodeAddr
	if config.GossipPort == 0 {
		config.GossipPort = freePorts(t)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &peer{log: log, progress: newProgress(io.Discard, log, false), config: config, listener: listener, clock: store.SystemClock{}}
}

// freePorts finds one that is free, with the next, for both protocols. It is none
// that the kernel gives to who asks for any (32768 and above, ip(7)): a peer that
// is down for a while must have it back.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20_000 + 2*rand.IntN(5_000)
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue // somebody serves there
		}
		next, err := net.Listen("tcp", fmt.Sprintf(":%d", port+1))
		_ = l.Close()
		if err != nil {
			continue
		}
		_ = next.Close()
		if udp, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port)); err == nil {
			_ = udp.Close()
			return port
		}
	}
	t.Fatal("no free ports")
	return 0
}

func entered(t *testing.T, p *peer) {
	t.Helper()
	if err := p.enter(t.Context()); err != nil {
		t.Fatal(errors.Join(err, p.close()))
	}
}

// serveCell lets hosts join through a founder and returns what --join takes.
func serveCell(t *testing.T, p *peer, tokens join.Tokens) string {
	t.Helper()
	data, err := os.ReadFile(p.files.CA)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.ReadCA(data)
	if err != nil {
		t.Fatal(err)
	}
	service := join.NewService(join.Options{
		Tokens: tokens, Names: noNames{}, Tags: joining.Tags{Records: api.CellRecords(p.db)}, Issuer: pki.NewIssuer(p.files),
		Certificate: pki.NewPair(p.files.Node, p.files.NodeKey).Certificate, CA: ca, Cell: p.describeCell,
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("127.0.0.1:%d", listener.Addr().(*net.TCPAddr).Port-1)
}

func TestAHostJoinsResumesAndStaysItself(t *testing.T) {
	first := newPeer(t, Config{Name: "host1", DataDir: t.TempDir()})
	entered(t, first)
	defer func() { _ = first.close() }()
	made := token.New(first.identity.Cell)
	tokens := &tokenShelf{tokens: map[string]token.Stored{made.ID: {ID: made.ID, Secret: made.Secret, Expires: time.Now().Add(time.Hour)}}}
	address := serveCell(t, first, tokens)

	config := Config{Name: "host2", DataDir: t.TempDir(), Join: "127.0.0.1:1," + address, Token: made.String()}
	second := newPeer(t, config)
	entered(t, second)
	if second.identity.Tag == first.identity.Tag || second.identity.Cell != first.identity.Cell || !second.identity.Joined {
		t.Errorf("%+v beside %+v", second.identity, first.identity)
	}
	for _, name := range []string{"ca.crt", "ca.key", "front-proxy-ca.key", "sa.key", "gossip.keys"} {
		one, err := os.ReadFile(filepath.Join(first.pkiDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		if two, err := os.ReadFile(filepath.Join(second.pkiDir(), name)); err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s differs: %v", name, err)
		}
	}
	if err := second.close(); err != nil {
		t.Fatal(err)
	}

	again := newPeer(t, config) // --join stays in the unit file
	again.config.Token = ""
	entered(t, again)
	if again.identity.Tag != second.identity.Tag {
		t.Errorf("%+v, was %+v", again.identity, second.identity)
	}
	if err := again.close(); err != nil {
		t.Fatal(err)
	}
	renamed := newPeer(t, Config{Name: "host3", DataDir: config.DataDir})
	if err := errors.Join(renamed.enter(t.Context()), renamed.close()); err == nil || !strings.Contains(err.Error(), "--name host2") {
		t.Errorf("under another name: %v", err)
	}
	twin := newPeer(t, Config{Name: "host2", DataDir: t.TempDir(), Join: address, Token: made.String()})
	if err := errors.Join(twin.enter(t.Context()), twin.close()); err == nil || !strings.Contains(err.Error(), "shoal node forget host2") {
		t.Errorf("a second host2: %v", err)
	}
	if hasState(twin.config.DataDir) {
		t.Error("a refused host has a store")
	}
}

func TestAFounderGoesOnAsItself(t *testing.T) {
	dir := t.TempDir()
	first := newPeer(t, Config{Name: "host1", DataDir: dir})
	entered(t, first)
	if first.identity.Tag != joining.FirstTag || first.identity.Cell == "" || first.identity.Joined {
		t.Errorf("%+v", first.identity)
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "pki", "ca.key")); err != nil { // repaired from the store
		t.Fatal(err)
	}
	again := newPeer(t, Config{Name: "host1", DataDir: dir})
	entered(t, again)
	defer func() { _ = again.close() }()
	if again.identity.Cell != first.identity.Cell {
		t.Errorf("%+v, was %+v", again.identity, first.identity)
	}
}

func TestHostsOfACellHaveOneIPv6Range(t *testing.T) {
	first := newPeer(t, Config{Name: "host1", DataDir: t.TempDir(), IPv6: "fd12:3456:789a::/48"})
	entered(t, first)
	defer func() { _ = first.close() }()
	made := token.New(first.identity.Cell)
	tokens := &tokenShelf{tokens: map[string]token.Stored{made.ID: {ID: made.ID, Secret: made.Secret, Expires: time.Now().Add(time.Hour)}}}
	address := serveCell(t, first, tokens)

	other := newPeer(t, Config{Name: "host2", DataDir: t.TempDir(), Join: address, Token: made.String(), IPv6: "off"})
	err := errors.Join(other.enter(t.Context()), other.close())
	if err == nil || !strings.Contains(err.Error(), "the cell has --ipv6 fd12:3456:789a::/48, and this host was told off") {
		t.Errorf("a host without IPv6 in a cell with it: %v", err)
	}
	if hasState(other.config.DataDir) {
		t.Error("a refused host has a store")
	}
	told := newPeer(t, Config{Name: "host2", DataDir: other.config.DataDir, Join: address, Token: made.String()})
	entered(t, told)
	if told.ipv6 != first.ipv6 || !told.ipv6.IsValid() {
		t.Errorf("a host that was told nothing has %s, the cell %s", told.ipv6, first.ipv6)
	}
	if err := told.close(); err != nil {
		t.Fatal(err)
	}
	changed := newPeer(t, Config{Name: "host2", DataDir: other.config.DataDir, IPv6: "fd77:3456:789a::/48"})
	if err := errors.Join(changed.enter(t.Context()), changed.close()); err == nil || !strings.Contains(err.Error(), "start this one without --ipv6") {
		t.Errorf("a member with another range than the cell's: %v", err)
	}
}

func TestAHostAloneMayChangeItsCellsIPv6Range(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []struct{ flag, want string }{
		{"fd12:3456:789a::/48", "fd12:3456:789a::/48"},
		{"", "fd12:3456:789a::/48"}, // as the cell has it, whatever the CA says
		{"off", "invalid Prefix"},
		{"", "invalid Prefix"},
		{"fd77:3456:789a::/48", "fd77:3456:789a::/48"},
	} {
		p := newPeer(t, Config{Name: "host1", DataDir: dir, IPv6: step.flag})
		entered(t, p)
		if p.ipv6.String() != step.want {
			t.Errorf("--ipv6 %q: %s, want %s", step.flag, p.ipv6, step.want)
		}
		if err := p.close(); err != nil {
			t.Fatal(err)
		}
	}
}
