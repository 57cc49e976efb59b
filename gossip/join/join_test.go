package join

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/api/pki"
	"shoal/gossip/join/token"
)

// cell is the facts of a cell in memory; the service, TLS and certificates are real.
type cell struct {
	t       *testing.T
	dir     string
	files   pki.Files
	ca      *x509.Certificate
	ring    [][]byte
	address string

	mu     sync.Mutex
	tokens map[string]token.Stored // guarded by mu
	tags   map[string]string       // name to key; guarded by mu
	alive  map[string]bool         // set before the service starts
	known  map[string]bool
	said   int // tokens looked up; guarded by mu
}

func (c *cell) Token(_ context.Context, id string) (token.Stored, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said++
	s, ok := c.tokens[id]
	return s, ok, nil
}

func (c *cell) Use(_ context.Context, id, node string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.tokens[id]
	if s.UsedBy != "" {
		return false, nil
	}
	s.UsedBy = node
	c.tokens[id] = s
	return true, nil
}

func (c *cell) Alive(name string) bool                             { return c.alive[name] }
func (c *cell) Known(_ context.Context, name string) (bool, error) { return c.known[name], nil }

func (c *cell) Claim(_ context.Context, name string, key crypto.PublicKey) (uint16, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if have, ok := c.tags[name]; ok && have != hex.EncodeToString(der) {
		return 0, ErrNameClaimed
	}
	c.tags[name] = hex.EncodeToString(der)
	return uint16(len(c.tags)), nil
}

func start(t *testing.T, change func(*cell, *Options)) *cell {
	t.Helper()
	c := &cell{t: t, dir: t.TempDir(), ring: [][]byte{pki.NewRingKey()}, tokens: map[string]token.Stored{}, tags: map[string]string{}, alive: map[string]bool{}, known: map[string]bool{}}
	var err error
	if c.files, err = pki.Ensure(c.dir, pki.Names{Node: "host1", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	node := pki.NewPair(c.files.Node, c.files.NodeKey)
	caPEM, err := os.ReadFile(c.files.CA)
	if err != nil {
		t.Fatal(err)
	}
	if c.ca, err = pki.ReadCA(caPEM); err != nil {
		t.Fatal(err)
	}
	o := Options{
		Tokens: c, Names: c, Tags: c, Issuer: pki.NewIssuer(c.files), Certificate: node.Certificate, CA: c.ca,
		Cell: func(context.Context) (Cell, error) {
			return Cell{
				GossipKeys: c.ring, Peers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:7946")}, ServiceCIDR: netip.MustParsePrefix("10.0.0.0/16"),
				Settings: map[string]string{"ipv6": "fd12:3456:789a::/48"},
			}, nil
		},
	}
	if change != nil {
		change(c, &o)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewService(o).Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *cell) token(change func(*token.Stored)) token.Token {
	tok := token.New(pki.CellID(c.ca))
	s := token.Stored{ID: tok.ID, Secret: tok.Secret, Expires: time.Now().Add(time.Hour)}
	if change != nil {
		change(&s)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens[s.ID] = s
	return tok
}

func joiner(t *testing.T, name string, tok token.Token) Joiner {
	t.Helper()
	csr, err := pki.Request(filepath.Join(t.TempDir(), "pki"), name)
	if err != nil {
		t.Fatal(err)
	}
	return Joiner{Token: tok, Name: name, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, CSR: csr}
}

func TestAHostWithATokenJoins(t *testing.T) {
	c := start(t, nil)
	tok := c.token(nil)
	for i := range 3 { // reusable
		j := joiner(t, fmt.Sprintf("host%d", i+2), tok)
		g, err := j.Join(t.Context(), c.address)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(g.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if cert.Subject.CommonName != "system:node:"+j.Name || cert.Subject.Organization[0] != "system:nodes" {
			t.Errorf("subject %s", cert.Subject)
		}
		if cert.VerifyHostname(j.Name) != nil || cert.VerifyHostname("192.0.2.2") != nil || cert.VerifyHostname("192.0.2.1") == nil {
			t.Errorf("names %v, addresses %v", cert.DNSNames, cert.IPAddresses)
		}
		if int(g.Tag) != i+1 || !bytes.Equal(g.GossipKeys[0], c.ring[0]) || len(g.Peers) != 1 || g.ServiceCIDR.String() != "10.0.0.0/16" || g.Settings["ipv6"] != "fd12:3456:789a::/48" {
			t.Errorf("%+v", g)
		}
		again, err := j.Join(t.Context(), c.address) // as if the first answer was lost
		if err != nil || again.Tag != g.Tag {
			t.Errorf("a second attempt with the same key: %v", err)
		}
	}
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	expired := func(s *token.Stored) { s.Expires = time.Now().Add(-time.Second) }
	used := func(s *token.Stored) { s.SingleUse, s.UsedBy = true, "host7" }
	for _, test := range []struct {
		name   string
		cell   func(*cell, *Options)
		stored func(*token.Stored)
		joiner func(*Joiner)
		code   Code
		says   string
	}{
		{name: "wrong secret", stored: func(s *token.Stored) { s.Secret = "0123456789abcdef" }, code: UnknownToken, says: "shoal token create"},
		{name: "unknown token", joiner: func(j *Joiner) { j.Token.ID = "zzzzzz" }, code: UnknownToken, says: "revoked"},
		{name: "expired token", stored: expired, code: ExpiredToken, says: "--ttl"},
		{name: "used token", stored: used, code: UsedToken, says: "host7"},
		{name: "living name", cell: func(c *cell, _ *Options) { c.alive["host2"] = true }, code: NameAlive, says: "--name"},
		{name: "known name", cell: func(c *cell, _ *Options) { c.known["host2"] = true }, code: NameKnown, says: "shoal node forget host2"},
		{name: "claimed name", cell: func(c *cell, _ *Options) { c.tags["host2"] = "other" }, code: NameKnown, says: "shoal node forget host2"},
		{name: "clock ahead", joiner: clock(10 * time.Minute), code: ClockSkew, says: "10m0s ahead of"},
		{name: "clock behind", joiner: clock(-10 * time.Minute), code: ClockSkew, says: "10m0s behind"},
		{name: "clock of 1970", joiner: func(j *Joiner) { j.Now = func() time.Time { return time.Unix(0, 0) } }, code: ClockSkew, says: "behind"},
		{name: "older joiner", cell: func(_ *cell, o *Options) { o.Versions = Versions{3, 4} }, code: JoinerTooOld, says: "upgrade shoal on this host"},
		{name: "newer joiner", joiner: func(j *Joiner) { j.Versions = Versions{2, 3} }, code: JoinerTooNew, says: "upgrade shoal on the cell's hosts"},
		{name: "other cell", joiner: func(j *Joiner) { j.Token.Cell = strings.Repeat("A", 43) }, code: WrongCell, says: "secret was not sent"},
		{name: "other setting", joiner: func(j *Joiner) { j.Settings = map[string]string{"ipv6": "off"} }, code: OtherSetting, says: "the cell has --ipv6 fd12:3456:789a::/48, and this host was told off"},
		{name: "no name", joiner: func(j *Joiner) { j.Name = "Not a name" }, code: BadRequest, says: "node name"},
		{name: "no addresses", joiner: func(j *Joiner) { j.Addresses = nil }, code: BadRequest, says: "addresses"},
		{name: "no request", joiner: func(j *Joiner) { j.CSR = []byte("x") }, code: BadRequest, says: "certificate request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := start(t, test.cell)
			j := joiner(t, "host2", c.token(test.stored))
			if test.joiner != nil {
				test.joiner(&j)
			}
			_, err := j.Join(t.Context(), c.address)
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Code != test.code || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("%v; want code %s saying %q", err, test.code, test.says)
			}
			if len(c.tags) > 1 || c.tags["host2"] != "" && test.code != NameKnown {
				t.Errorf("a refused host has claimed a number: %v", c.tags)
			}
			if test.code == WrongCell && c.said != 0 {
				t.Error("the secret was said to a stranger")
			}
			good := joiner(t, "host3", c.token(nil)) // the cell goes on
			good.Versions = Versions{1, 9}
			if _, err := good.Join(t.Context(), c.address); err != nil {
				t.Errorf("a host after it: %v", err)
			}
		})
	}
}

func clock(skew time.Duration) func(*Joiner) {
	return func(j *Joiner) { j.Now = func() time.Time { return time.Now().Add(skew) } }
}

// A peer that shows the right authority beside a certificate it did not sign,
// or one of this cell that is no node's, is not believed.
func TestAnImpostorHearsNoSecret(t *testing.T) {
	other, err := pki.Ensure(t.TempDir(), pki.Names{Node: "host1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string]func(*cell) *pki.Pair{
		"another cell's node":       func(*cell) *pki.Pair { return pki.NewPair(other.Node, other.NodeKey) },
		"this cell's server":        func(c *cell) *pki.Pair { return pki.NewPair(c.files.APIServer, c.files.APIServerKey) },
		"this cell's administrator": func(c *cell) *pki.Pair { return pki.NewPair(c.files.Admin, c.files.AdminKey) },
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, func(c *cell, o *Options) { o.Certificate = pair(c).Certificate })
			_, err := joiner(t, "host2", c.token(nil)).Join(t.Context(), c.address)
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Code != WrongCell || c.said != 0 {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestASingleUseTokenLetsOneHostIn(t *testing.T) {
	c := start(t, nil)
	tok := c.token(func(s *token.Stored) { s.SingleUse = true })
	const hosts = 8
	results := make(chan error, hosts)
	for i := range hosts {
		j := joiner(t, fmt.Sprintf("racer%d", i), tok)
		go func() { _, err := j.Join(t.Context(), c.address); results <- err }()
	}
	in := 0
	for range hosts {
		err := <-results
		var refusal *Refusal
		switch {
		case err == nil:
			in++
		case !errors.As(err, &refusal) || refusal.Code != UsedToken:
			t.Errorf("%v", err)
		}
	}
	if in != 1 {
		t.Errorf("%d hosts got in", in)
	}
}

func TestTwoHostsOfOneNameCannotBothJoin(t *testing.T) {
	c := start(t, nil)
	tok := c.token(nil)
	results := make(chan error, 2)
	for range 2 {
		j := joiner(t, "twin", tok)
		go func() { _, err := j.Join(t.Context(), c.address); results <- err }()
	}
	one, two := <-results, <-results
	if (one == nil) == (two == nil) {
		t.Errorf("%v and %v", one, two)
	}
}

func TestGuessingIsSlowedDown(t *testing.T) {
	c := start(t, nil)
	j := joiner(t, "host2", c.token(nil))
	right := j.Token
	j.Token.Secret = "0123456789abcdef"
	var refusal *Refusal
	for range attemptsPerMinute {
		if _, err := j.Join(t.Context(), c.address); !errors.As(err, &refusal) || refusal.Code != UnknownToken {
			t.Fatal(err)
		}
	}
	j.Token = right
	if _, err := j.Join(t.Context(), c.address); !errors.As(err, &refusal) || refusal.Code != TooMany || refusal.RetryAfter <= 0 {
		t.Errorf("%v", err)
	}
}

func TestTheLimiterForgivesAndIsBounded(t *testing.T) {
	var l limiter
	now, source := time.Unix(1000, 0), netip.MustParseAddr("192.0.2.1")
	for range attemptsPerMinute {
		if _, ok := l.take(source, now); !ok {
			t.Fatal("refused too early")
		}
	}
	if wait, ok := l.take(source, now.Add(time.Second)); ok || wait != 59*time.Second {
		t.Errorf("%s, %v", wait, ok)
	}
	if _, ok := l.take(source, now.Add(time.Minute)); !ok {
		t.Error("a minute later it is still refused")
	}
	for i := range 3 * maxSources {
		l.take(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
		if len(l.sources) > maxSources {
			t.Fatalf("%d sources are remembered", len(l.sources))
		}
	}
}

func TestRandomBytesDoNotStopTheService(t *testing.T) {
	c := start(t, nil)
	for _, junk := range [][]byte{nil, []byte("GET / HTTP/1.1\r\n\r\n"), bytes.Repeat([]byte{0xff}, 4096), {0x16, 3, 1, 0, 1, 0}} {
		conn, err := net.Dial("tcp", c.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(junk)
		_ = conn.Close()
		inside, err := tls.Dial("tcp", c.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{Protocol}})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = inside.Write(junk)
		_ = inside.Close()
	}
	if _, err := joiner(t, "host2", c.token(nil)).Join(t.Context(), c.address); err != nil {
		t.Error(err)
	}
}
