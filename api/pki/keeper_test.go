package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"
)

// handClock stands still until it is moved.
type handClock struct {
	mu      sync.Mutex
	now     time.Time
	waiting []waiter
	asked   chan time.Duration
}

type waiter struct {
	at   time.Time
	tick chan time.Time
}

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	w := waiter{c.now.Add(d), make(chan time.Time, 1)}
	c.waiting = append(c.waiting, w)
	c.mu.Unlock()
	c.asked <- d
	return w.tick
}

func (c *handClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for _, w := range c.waiting {
		if !w.at.After(c.now) {
			select {
			case w.tick <- c.now:
			default:
			}
		}
	}
}

// serve answers over TLS with the certificate a Keeper renews, and returns a
// function that makes a request on a new connection and tells its serial.
func serve(t *testing.T, files Files, clock Clock) (address string, ask func() string) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: NewPair(files.APIServer, files.APIServerKey).ForServer})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	ca, err := readCert(files.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return listener.Addr().String(), func() string {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Time: clock.Now}, DisableKeepAlives: true}}
		resp, err := client.Get("https://" + listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" {
			t.Fatalf("%q, %v", body, err)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.String()
	}
}

func TestAServerGoesOnWhileItsCertificateIsRenewed(t *testing.T) {
	const life = 3 * time.Hour
	clock := &handClock{now: time.Now(), asked: make(chan time.Duration, 1)}
	dir, host := t.TempDir(), names("127.0.0.1")
	files, err := Ensure(dir, host, clock.now)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leavesOf(files, host) { // the keeper makes short-lived ones
		if err := os.Remove(l.cert); err != nil {
			t.Fatal(err)
		}
	}
	renewed := make(chan []string, 8)
	keeper := &Keeper{Files: files, Names: host, Clock: clock, Life: life, Renewed: func(n []string) { renewed <- n }, Logger: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- keeper.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-clock.asked
	if n := <-renewed; len(n) == 0 { // all were missing
		t.Error("nothing was renewed at start")
	}
	address, ask := serve(t, files, clock)
	open := openConnection(t, address, files)
	first := ask()
	for _, step := range []struct {
		forward time.Duration
		changes bool
	}{{time.Hour, false}, {time.Hour, true}, {time.Hour, false}, {2 * time.Hour, true}} {
		before := ask()
		clock.advance(step.forward)
		<-clock.asked
		if after := ask(); (after != before) != step.changes {
			t.Errorf("%s later: renewed %v, want %v", step.forward, after != before, step.changes)
		}
	}
	if ask() == first {
		t.Error("the first certificate is still on the wire")
	}
	if _, err := io.WriteString(open, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Errorf("a connection from before: %v", err)
	} else if answer, err := io.ReadAll(open); err != nil || len(answer) == 0 {
		t.Errorf("a connection from before: %q, %v", answer, err)
	}
	list, err := files.Validities()
	if err != nil || len(list) != 8 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, e := range list {
		if !e.Expires.After(clock.Now()) {
			t.Errorf("%s ended at %s", e.Name, e.Expires)
		}
	}
}

func openConnection(t *testing.T, address string, files Files) net.Conn {
	t.Helper()
	ca, err := readCert(files.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestAHalfWrittenRenewalIsNotServed(t *testing.T) {
	files, err := Ensure(t.TempDir(), names(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair := NewPair(files.Node, files.NodeKey)
	before, err := pair.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(files.Node, []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if after, err := pair.Certificate(); err != nil || after != before {
		t.Errorf("%v", err)
	}
	if _, err := NewPair(files.Node, files.NodeKey).Certificate(); err == nil {
		t.Error("a damaged certificate was loaded")
	}
}
