package e2e

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"shoal/api/pki"
	"shoal/gossip/join"
	"shoal/gossip/join/token"
	"shoal/test/harness"
)

// joinPort is the daemon's default gossip port, and the next one.
const joinPort = ":7947"

var printedToken = regexp.MustCompile(`--join 192\.0\.2\.1:7946 --token (\S+)`)

// TestAHostIsLetInOnce goes the way of `shoal start --join` up to the grant: a
// token from the command line, the daemon's own service, its API and its store.
func TestAHostIsLetInOnce(t *testing.T) {
	printed := printedToken.FindStringSubmatch(shoal(t, "token", "create", "--ttl", "1h", "--single-use"))
	if printed == nil {
		t.Fatal("no command with a token was printed")
	}
	made, err := token.Parse(printed[1])
	if err != nil {
		t.Fatal(err)
	}
	ask := func(name string) (*join.Grant, error) {
		csr, err := pki.Request(t.TempDir(), name)
		if err != nil {
			t.Fatal(err)
		}
		return join.Joiner{Token: made, Name: name, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.77")}, CSR: csr}.Join(t.Context(), harness.NodeAddr+joinPort)
	}
	refused := func(name string, code join.Code) {
		t.Helper()
		_, err := ask(name)
		var refusal *join.Refusal
		if !errors.As(err, &refusal) || refusal.Code != code {
			t.Errorf("%s: %v; want %s", name, err, code)
		}
	}
	refused(daemon.Name, join.NameAlive)
	grant, err := ask("joiner1")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(grant.Certificate)
	if err != nil || cert.Subject.CommonName != "system:node:joiner1" {
		t.Errorf("%v, %v", cert.Subject, err)
	}
	if grant.Tag < 2 || len(grant.GossipKeys) == 0 || grant.Peers[0].String() != "192.0.2.1:7946" {
		t.Errorf("number %d, %d keys, peers %v", grant.Tag, len(grant.GossipKeys), grant.Peers)
	}
	refused("joiner2", join.UsedToken)
	mentions(t, shoal(t, "token", "ls"), made.ID, "used by joiner1")
	if out := shoal(t, "token", "revoke", made.ID); !strings.Contains(out, "revoked") {
		t.Errorf("%q", out)
	}
	refused("joiner2", join.UnknownToken)
}
