package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"shoal/api/pki"
	"shoal/gossip/join/token"
)

// Joiner is a host that wants in.
type Joiner struct {
	Token     token.Token
	Name      string
	Addresses []netip.Addr
	// CSR is the host's certificate request, in DER form.
	CSR []byte
	// Settings are what this host was told of what a cell has in common, by the
	// names of flags. A cell that has another value refuses it.
	Settings map[string]string

	// Now defaults to the machine's clock, Versions to Current.
	Now      func() time.Time
	Versions Versions
}

// Join asks the peer whose join service is at address (host:port). A peer's no
// is a *Refusal.
func (j Joiner) Join(ctx context.Context, address string) (*Grant, error) {
	if j.Now == nil {
		j.Now = time.Now
	}
	if j.Versions == (Versions{}) {
		j.Versions = Current
	}
	ctx, cancel := context.WithTimeout(ctx, sessionFor)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w; is shoal running there, and the port open?", address, err)
	}
	defer func() { _ = raw.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	grant, err := j.talk(ctx, tls.Client(raw, j.tls()))
	if err != nil {
		return nil, fmt.Errorf("join through %s: %w", address, err)
	}
	return grant, nil
}

func (j Joiner) tls() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{Protocol},
		// The address may be any; what proves the peer is below.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies against the token's hash
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := verifyCell(state.PeerCertificates, j.Token.Cell)
			return err
		},
	}
}

// verifyCell checks that chain is a node's and ends in the authority with this
// hash. Times are not looked at yet: a joiner whose clock is wrong must learn
// that, and not that a certificate seems to have expired.
func verifyCell(chain []*x509.Certificate, cell string) (*x509.Certificate, error) {
	if len(chain) < 2 {
		return nil, &Refusal{Code: WrongCell, Detail: "it shows no authority"}
	}
	leaf, ca := chain[0], chain[len(chain)-1]
	if !ca.IsCA || pki.CellID(ca) != cell {
		return nil, &Refusal{Code: WrongCell, Detail: fmt.Sprintf("its authority has the hash %s, the token names %s", pki.CellID(ca), cell)}
	}
	if err := verifyNode(leaf, ca, leaf.NotBefore); err != nil {
		return nil, &Refusal{Code: WrongCell, Detail: err.Error()}
	}
	return ca, nil
}

func verifyNode(leaf, ca *x509.Certificate, at time.Time) error {
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return err
	}
	if !strings.HasPrefix(leaf.Subject.CommonName, pki.NodePrefix) || !slices.Contains(leaf.Subject.Organization, pki.NodeGroup) {
		return fmt.Errorf("certificate of %q is not a node's", leaf.Subject.CommonName)
	}
	return nil
}

func (j Joiner) talk(ctx context.Context, conn *tls.Conn) (*Grant, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("shake hands: %w", err)
	}
	chain := conn.ConnectionState().PeerCertificates
	sent := j.Now()
	if err := writeMessage(conn, hello{Versions: j.Versions, Clock: sent}); err != nil {
		return nil, err
	}
	first, err := hear(conn)
	if err != nil {
		return nil, err
	}
	if first.Welcome == nil {
		return nil, fmt.Errorf("%w: no welcome", errMessage)
	}
	// The peer read its clock somewhere between our two readings.
	middle := sent.Add(j.Now().Sub(sent) / 2)
	if skew := middle.Sub(first.Welcome.Clock); beyondSkew(skew) {
		return nil, &Refusal{Code: ClockSkew, Skew: skew}
	}
	if v := first.Welcome.Version; v < j.Versions.Oldest || v > j.Versions.Newest {
		return nil, fmt.Errorf("%w: version %d, which this host does not speak", errMessage, v)
	}
	// Only now the times: both clocks agree.
	if err := verifyNode(chain[0], chain[len(chain)-1], j.Now()); err != nil {
		return nil, &Refusal{Code: WrongCell, Detail: err.Error()}
	}
	if err := writeMessage(conn, request{TokenID: j.Token.ID, Secret: j.Token.Secret, Name: j.Name, Addresses: j.Addresses, CSR: j.CSR, Settings: j.Settings}); err != nil {
		return nil, err
	}
	second, err := hear(conn)
	if err != nil {
		return nil, err
	}
	if second.Grant == nil {
		return nil, fmt.Errorf("%w: no grant", errMessage)
	}
	if err := j.checkGrant(second.Grant, chain[len(chain)-1]); err != nil {
		return nil, err
	}
	return second.Grant, Cell{Settings: second.Grant.Settings}.refuses(j.Settings)
}

func hear(conn *tls.Conn) (answer, error) {
	var a answer
	if err := readMessage(conn, &a); err != nil {
		return a, err
	}
	if a.Refusal != nil {
		return a, a.Refusal
	}
	return a, nil
}

// checkGrant sees that the certificate is this host's and the cell's.
func (j Joiner) checkGrant(g *Grant, ca *x509.Certificate) error {
	if !slices.Equal(g.CA, ca.Raw) {
		return errors.New("the peer granted another authority than it showed")
	}
	cert, err := x509.ParseCertificate(g.Certificate)
	if err != nil {
		return fmt.Errorf("read node certificate: %w", err)
	}
	if err := verifyNode(cert, ca, j.Now()); err != nil {
		return fmt.Errorf("verify node certificate: %w", err)
	}
	if want := pki.NodePrefix + j.Name; cert.Subject.CommonName != want {
		return fmt.Errorf("the peer granted a certificate of %s, not of %s", cert.Subject.CommonName, want)
	}
	csr, err := x509.ParseCertificateRequest(j.CSR)
	if err != nil || !slices.Equal(csr.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo) {
		return errors.New("the peer granted a certificate for another key")
	}
	return nil
}
