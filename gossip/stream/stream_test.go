package stream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// cell is a certificate authority.
type cell struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCell(t testing.TB) *cell {
	t.Helper()
	c := &cell{}
	c.cert, c.key = c.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "cell"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return c
}

func (c *cell) issue(t testing.TB, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signer := c.cert, c.key
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

func (c *cell) identity(t testing.TB, template *x509.Certificate) Identity {
	t.Helper()
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	cert, key := c.issue(t, template)
	roots := x509.NewCertPool()
	roots.AddCert(c.cert)
	leaf := &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	return Identity{Roots: func() *x509.CertPool { return roots }, Certificate: func() (*tls.Certificate, error) { return leaf, nil }}
}

func node(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: nodePrefix + name, Organization: []string{nodeGroup}}, DNSNames: []string{name},
	}
}

func endpoint(t testing.TB, o Options) *Endpoint {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// serve runs e until the test ends and returns its address.
func serve(t testing.TB, e *Endpoint, accept func(context.Context, *Link)) string {
	t.Helper()
	listener, err := e.o.Transport.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.ServeOn(ctx, listener, accept) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// run runs a link until the test ends.
func run(t testing.TB, l *Link, handle func(Frame) error) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.Run(context.Background(), handle) // ends with the link, whose error the other side asserts
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

func echo(ctx context.Context, l *Link) {
	_ = l.Run(ctx, func(f Frame) error { return l.SendPaced(ctx, f) })
}

// networks are the transports that every test of links runs on.
func networks() map[string]func() (a, b Transport) {
	return map[string]func() (Transport, Transport){
		"tcp":    func() (Transport, Transport) { return TCP{"127.0.0.1:0"}, TCP{"127.0.0.1:0"} },
		"memory": func() (Transport, Transport) { m := NewMemory(); return m.At("a"), m.At("b") },
	}
}

// TestOthersShareThePort: a client without a certificate reaches the service it
// names, and never the peers.
func TestOthersShareThePort(t *testing.T) {
	c := newCell(t)
	identity := c.identity(t, node("a"))
	a := endpoint(t, Options{Transport: TCP{"127.0.0.1:0"}, Identity: identity, Others: map[string]Other{"shoal-join": {
		Config: func() *tls.Config {
			return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return identity.Certificate() }}
		},
		Serve: func(_ context.Context, conn *tls.Conn) {
			if _, err := conn.Write([]byte("welcome")); err != nil {
				t.Error(err)
			}
		},
	}}})
	var links atomic.Int32
	address := serve(t, a, func(ctx context.Context, l *Link) { links.Add(1); echo(ctx, l) })
	read := func(protocols ...string) (string, error) {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: identity.Roots(), ServerName: "a", NextProtos: protocols})
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return "", err
		}
		got, err := io.ReadAll(conn)
		return string(got), err
	}
	if got, err := read("shoal-join"); got != "welcome" || err != nil {
		t.Errorf("the service said %q, %v", got, err)
	}
	for _, protocols := range [][]string{{PeerProtocol}, {}, {"h2"}} {
		if got, err := read(protocols...); got != "" || err == nil {
			t.Errorf("a stranger speaking %q read %q, %v", protocols, got, err)
		}
	}
	b := endpoint(t, Options{Transport: TCP{}, Identity: c.identity(t, node("b"))})
	l, err := b.Dial(t.Context(), address, "a")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if n := links.Load(); n > 1 {
		t.Errorf("%d links for one peer", n)
	}
}

func TestEcho(t *testing.T) {
	for name, network := range networks() {
		t.Run(name, func(t *testing.T) {
			c := newCell(t)
			ta, tb := network()
			a := endpoint(t, Options{Transport: ta, Identity: c.identity(t, node("a"))})
			b := endpoint(t, Options{Transport: tb, Identity: c.identity(t, node("b"))})
			peers := make(chan string, 1)
			address := serve(t, b, func(ctx context.Context, l *Link) { peers <- l.Peer; echo(ctx, l) })
			link, err := a.Dial(t.Context(), address, "b")
			if err != nil {
				t.Fatal(err)
			}
			if peer := <-peers; peer != "a" || link.Peer != "b" || link.Version != 1 {
				t.Errorf("a sees %s, b sees %s, version %d", link.Peer, peer, link.Version)
			}
			got := make(chan Frame, 100)
			run(t, link, func(f Frame) error { got <- f; return nil })
			for i := range 50 {
				payload := bytes.Repeat([]byte{byte(i)}, i*3000)
				if err := link.SendPaced(t.Context(), Frame{Kind: FirstKind + byte(i), Payload: payload}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 50 {
				if f := <-got; f.Kind != FirstKind+byte(i) || !bytes.Equal(f.Payload, bytes.Repeat([]byte{byte(i)}, i*3000)) {
					t.Fatalf("frame %d came back as kind %d with %d bytes", i, f.Kind, len(f.Payload))
				}
			}
		})
	}
}

// TestRefused: who must not get a link, from either side, and that the reason
// is told.
func TestRefused(t *testing.T) {
	ours, other := newCell(t), newCell(t)
	expired := node("a")
	expired.NotAfter = time.Now().Add(-time.Minute)
	good := ours.identity(t, node("b"))
	stranger := other.identity(t, node("a"))
	stranger.Roots = good.Roots // it believes us; we must not believe it
	for name, c := range map[string]struct {
		dialler, server Identity
		versions        Versions
		want            string
	}{
		"dialler of another cell":   {dialler: stranger, server: good, want: "unknown certificate authority"},
		"server of another cell":    {dialler: ours.identity(t, node("a")), server: other.identity(t, node("b")), want: "unknown authority"},
		"expired":                   {dialler: ours.identity(t, expired), server: good, want: "certificate"},
		"not a node":                {dialler: ours.identity(t, &x509.Certificate{Subject: pkix.Name{CommonName: "shoal-admin", Organization: []string{"system:masters"}}}), server: good, want: "bad certificate"},
		"group without name":        {dialler: ours.identity(t, &x509.Certificate{Subject: pkix.Name{CommonName: nodePrefix, Organization: []string{nodeGroup}}}), server: good, want: "bad certificate"},
		"another node than dialled": {dialler: ours.identity(t, node("a")), server: ours.identity(t, node("c")), want: "not b"},
		"named b, issued to c": {dialler: ours.identity(t, node("a")), server: ours.identity(t, func() *x509.Certificate {
			n := node("c")
			n.DNSNames = []string{"b"}
			return n
		}()), want: "expected node b, found c"},
		"newer": {dialler: ours.identity(t, node("a")), server: good, versions: Versions{2, 3}, want: "upgrade shoal on the other peer"},
	} {
		t.Run(name, func(t *testing.T) {
			var accepted atomic.Int32
			b := endpoint(t, Options{Transport: TCP{"127.0.0.1:0"}, Identity: c.server})
			address := serve(t, b, func(ctx context.Context, l *Link) { accepted.Add(1); echo(ctx, l) })
			a := endpoint(t, Options{Transport: TCP{}, Identity: c.dialler, Versions: c.versions})
			_, err := a.Dial(t.Context(), address, "b")
			if err == nil {
				t.Fatal("a link was made")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %q, which does not say %q", err, c.want)
			}
			if accepted.Load() != 0 {
				t.Error("the server made a link")
			}
		})
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		a, b Versions
		want uint16
	}{
		{Versions{1, 1}, Versions{1, 1}, 1},
		{Versions{1, 4}, Versions{2, 3}, 3},
		{Versions{3, 5}, Versions{1, 3}, 3},
		{Versions{1, 2}, Versions{3, 4}, 0},
	} {
		for _, pair := range [][2]Versions{{c.a, c.b}, {c.b, c.a}} {
			got, err := pair[0].common(pair[1])
			var refused *VersionError
			if got != c.want || errors.As(err, &refused) != (c.want == 0) {
				t.Errorf("%v: %d, %v, want %d", pair, got, err, c.want)
			}
		}
	}
}

// TestStrangers: random bytes, silence and half a handshake neither get a link
// nor keep others from one.
func TestStrangers(t *testing.T) {
	c := newCell(t)
	b := endpoint(t, Options{Transport: TCP{"127.0.0.1:0"}, Identity: c.identity(t, node("b"))})
	address := serve(t, b, echo)
	for i := range 20 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		noise := make([]byte, i*100)
		rand.Read(noise)
		if _, err := conn.Write(noise); err != nil {
			t.Fatal(err)
		}
	}
	a := endpoint(t, Options{Transport: TCP{}, Identity: c.identity(t, node("a"))})
	link, err := a.Dial(t.Context(), address, "b")
	if err != nil {
		t.Fatalf("a peer of the cell got no link: %v", err)
	}
	link.Close()
}

// TestSlowPeer: a peer that reads nothing costs a bounded queue, is told of by
// ErrOverflow, and holds nobody up.
func TestSlowPeer(t *testing.T) {
	for name, network := range networks() {
		t.Run(name, func(t *testing.T) {
			c := newCell(t)
			ta, tb := network()
			a := endpoint(t, Options{Transport: ta, Identity: c.identity(t, node("a")), QueueBytes: 1 << 20})
			b := endpoint(t, Options{Transport: tb, Identity: c.identity(t, node("b"))})
			release := make(chan struct{})
			address := serve(t, b, func(ctx context.Context, l *Link) {
				_ = l.Run(ctx, func(f Frame) error {
					if f.Kind == FirstKind {
						<-release
					}
					return nil
				})
			})
			defer close(release)
			slow, err := a.Dial(t.Context(), address, "b")
			if err != nil {
				t.Fatal(err)
			}
			run(t, slow, func(Frame) error { return nil })
			quick, err := a.Dial(t.Context(), address, "b")
			if err != nil {
				t.Fatal(err)
			}
			run(t, quick, func(Frame) error { return nil })
			overflowed := false
			for i := 0; i < 20_000 && !overflowed; i++ {
				err := slow.Send(Frame{Kind: FirstKind, Payload: make([]byte, 16<<10)})
				overflowed = errors.Is(err, ErrOverflow)
				if w := slow.Stats().WaitingBytes; w > 1<<20 {
					t.Fatalf("%d bytes wait, limit %d", w, 1<<20)
				}
			}
			if !overflowed || slow.Stats().LostFrames == 0 {
				t.Errorf("no overflow: %+v", slow.Stats())
			}
			for range 100 {
				if err := quick.SendPaced(t.Context(), Frame{Kind: FirstKind + 1, Payload: make([]byte, 100<<10)}); err != nil {
					t.Fatalf("the other link: %v", err)
				}
			}
		})
	}
}

// TestRunEnds: a link's Run returns when either end closes, or ctx ends.
func TestRunEnds(t *testing.T) {
	c := newCell(t)
	b := endpoint(t, Options{Transport: TCP{"127.0.0.1:0"}, Identity: c.identity(t, node("b"))})
	ended := make(chan error, 1)
	address := serve(t, b, func(ctx context.Context, l *Link) { ended <- l.Run(ctx, func(Frame) error { return nil }) })
	a := endpoint(t, Options{Transport: TCP{}, Identity: c.identity(t, node("a"))})
	link, err := a.Dial(t.Context(), address, "b")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := link.Run(ctx, nil); err != nil {
		t.Errorf("after cancel: %v", err)
	}
	<-ended //nolint:errcheck // how the far end saw it is its own matter
	if err := link.Send(Frame{Kind: FirstKind}); !errors.Is(err, ErrClosed) {
		t.Errorf("send on a closed link: %v", err)
	}
}

func TestBucket(t *testing.T) {
	now := time.Unix(0, 0)
	b := newBucket(1000, 500, now)
	for _, step := range []struct {
		after time.Duration
		n     int
		wait  time.Duration
	}{
		{0, 500, 0}, {0, 100, 100 * time.Millisecond}, {100 * time.Millisecond, 0, 0},
		{time.Hour, 600, 100 * time.Millisecond}, {-time.Hour, 0, 100 * time.Millisecond},
	} {
		now = now.Add(step.after)
		if got := b.take(step.n, now); got != step.wait {
			t.Errorf("take %d after %v: wait %v, want %v", step.n, step.after, got, step.wait)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, Frame{Kind: FirstKind, Payload: []byte("x")}), Frame{Kind: keepAlive}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 16})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = readHello(bytes.NewReader(data)) // must not panic
		r := bufio.NewReader(bytes.NewReader(data))
		var again []byte
		for {
			frame, err := readFrame(r)
			if err != nil {
				if !errors.Is(err, ErrBadFrame) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatal(err)
				}
				break
			}
			again = appendFrame(again, frame)
		}
		if !bytes.HasPrefix(data, again) {
			t.Fatalf("%x came back as %x", data, again)
		}
	})
}
