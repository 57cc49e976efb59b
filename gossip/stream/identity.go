package stream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A node certificate names its node as Kubernetes does.
const (
	nodePrefix = "system:node:"
	nodeGroup  = "system:nodes"
)

// Identity is who this peer is and whom it believes.
type Identity struct {
	// Roots holds the cell's certificate authority, and nothing else: the
	// machine's own authorities have no say here.
	Roots *x509.CertPool
	// Certificate returns the node's current certificate, for serving and as
	// a client. It is asked for every connection, so that renewing it needs
	// no restart.
	Certificate func() (*tls.Certificate, error)
}

// ErrNotANode says that a certificate is of this cell but not a node's.
var ErrNotANode = errors.New("certificate is not a node's")

// NodeName returns the node that a verified certificate was issued to.
func NodeName(c *x509.Certificate) (string, error) {
	name, ok := strings.CutPrefix(c.Subject.CommonName, nodePrefix)
	if !ok || name == "" || !slices.Contains(c.Subject.Organization, nodeGroup) {
		return "", fmt.Errorf("read node name of %q: %w", c.Subject.CommonName, ErrNotANode)
	}
	return name, nil
}

func (i Identity) base() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Nothing is resumed: each connection shows its certificate anew.
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := NodeName(s.PeerCertificates[0])
			return err
		},
	}
}

func (i Identity) server() *tls.Config {
	c := i.base()
	c.ClientCAs = i.Roots
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.Certificate() }
	return c
}

// client expects the node called peer at the other end.
func (i Identity) client(peer string) *tls.Config {
	c := i.base()
	c.RootCAs = i.Roots
	c.ServerName = peer
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.Certificate() }
	c.VerifyConnection = func(s tls.ConnectionState) error {
		name, err := NodeName(s.PeerCertificates[0])
		if err == nil && name != peer {
			err = fmt.Errorf("expected node %s, found %s", peer, name)
		}
		return err
	}
	return c
}
