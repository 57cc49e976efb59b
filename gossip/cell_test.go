package gossip

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"shoal/gossip/membership"
	"shoal/gossip/stream"
	"shoal/store"
	"shoal/test/eventually"
)

var _ Store = (*store.DB)(nil)

// authority is a cell's.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{}
	a.cert, a.key = a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "cell"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

func (a *authority) issue(t testing.TB, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) identity(t testing.TB, name string) stream.Identity {
	cert, key := a.issue(t, &x509.Certificate{
		Subject:  pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}},
		DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	})
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	leaf := &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	return stream.Identity{
		Roots:       func() *x509.CertPool { return roots },
		Certificate: func() (*tls.Certificate, error) { return leaf, nil },
	}
}

// testPeer is a Node over a database on disk.
type testPeer struct {
	minFree   uint64
	t         testing.TB
	name, dir string
	authority *authority
	seeds     []string
	adapt     func(*Options)
	joining   bool
	node      *Node
	db        *store.DB
	cancel    context.CancelFunc
	done      chan error
}

func startPeer(t testing.TB, a *authority, name string, seeds []string, adapt func(*Options)) *testPeer {
	t.Helper()
	p := &testPeer{t: t, name: name, dir: t.TempDir(), authority: a, seeds: seeds, adapt: adapt}
	p.start()
	t.Cleanup(p.stop)
	return p
}

func testLogger() *slog.Logger {
	if os.Getenv("GOSSIP_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	return slog.New(slog.DiscardHandler)
}

func (p *testPeer) start() {
	p.t.Helper()
	var node atomic.Pointer[Node]
	var err error
	seeds := slices.Clone(p.seeds)
	logger := testLogger().With("on", p.name)
	p.db, err = store.Open(context.Background(), store.Options{Dir: p.dir, Joining: p.joining, MinFreeBytes: p.minFree, Logger: logger, Published: func(d []store.Delta) {
		if n := node.Load(); n != nil {
			n.Publish(d)
		}
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	o := Options{
		Name: p.name, Store: p.db, Logger: logger, Identity: p.authority.identity(p.t, p.name),
		Gossip: netip.MustParseAddrPort("127.0.0.1:0"), Streams: netip.MustParseAddrPort("127.0.0.1:0"),
		Keys: [][]byte{bytes.Repeat([]byte{7}, 32)}, Seeds: func() []string { return seeds },
		Membership: membership.Timing{ProbeEvery: 200 * time.Millisecond, ProbeTimeout: 100 * time.Millisecond, GossipEvery: 20 * time.Millisecond},
	}
	if p.adapt != nil {
		p.adapt(&o)
	}
	if p.node, err = New(o); err != nil {
		p.t.Fatal(err)
	}
	p.node.Handle("echo", func(_ context.Context, from string, payload []byte) ([]byte, error) {
		return slices.Concat([]byte(from+" "), payload), nil
	})
	node.Store(p.node)
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan error, 1)
	go func() { p.done <- p.node.Run(ctx) }()
}

func (p *testPeer) stop() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	p.cancel = nil
	if err := <-p.done; err != nil {
		p.t.Errorf("%s: %v", p.name, err)
	}
	if err := p.db.Close(); err != nil {
		p.t.Errorf("%s: %v", p.name, err)
	}
}

func (p *testPeer) write(key, value string) {
	p.t.Helper()
	if _, err := p.db.Update(context.Background(), store.Update{Key: key, Expect: store.Any, Value: []byte(value), UID: p.name + key}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *testPeer) has(key, value string) bool {
	e, _, err := p.db.Get(key, 0)
	return err == nil && string(e.Value) == value
}

// startCell starts peers that know each other and have exchanged once.
func startCell(t testing.TB, names ...string) []*testPeer {
	t.Helper()
	a := newAuthority(t)
	var peers []*testPeer
	var seeds []string
	for _, name := range names {
		p := startPeer(t, a, name, seeds, nil)
		seeds = append(seeds, p.node.Address().String())
		peers = append(peers, p)
	}
	for _, p := range peers {
		p.seeds = seeds
		eventually.True(t, p.name+" has all links", func() bool { return p.linked() == len(peers)-1 })
	}
	return peers
}

func (p *testPeer) status() Status {
	s, err := p.node.Status(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *testPeer) linked() int {
	linked := 0
	for _, s := range p.status().Peers {
		if s.Tree && s.Connected {
			linked++
		}
	}
	return linked
}

func equalPeers(peers ...*testPeer) bool {
	for _, p := range peers[1:] {
		if p.db.VectorDigest() != peers[0].db.VectorDigest() {
			return false
		}
	}
	for _, p := range peers[1:] {
		a, b := p.db.Fingerprints(), peers[0].db.Fingerprints()
		if a != b {
			return false
		}
	}
	return true
}
