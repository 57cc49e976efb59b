package stream

import (
	"context"
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

// PeerProtocol is what links between peers say they speak (ALPN, RFC 7301).
const PeerProtocol = "shoal-peer"

// Other is somebody else who is served on the peers' port, to clients that name
// its protocol. It sees nothing of the peers' links.
type Other struct {
	// Config returns a new configuration of its own.
	Config func() *tls.Config
	// Serve is called after the handshake, for at most maxOthers connections
	// at a time. The connection is closed when it returns.
	Serve func(ctx context.Context, conn *tls.Conn)
}

// Identity is who this peer is and whom it believes.
type Identity struct {
	// Roots returns the cell's certificate authorities, and nothing else: the
	// machine's own have no say here. Like Certificate it is asked for every
	// connection.
	Roots func() *x509.CertPool
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
		NextProtos:             []string{PeerProtocol},
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := NodeName(s.PeerCertificates[0])
			return err
		},
	}
}

func (i Identity) server() *tls.Config {
	c := i.base()
	c.ClientCAs = i.Roots()
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.Certificate() }
	return c
}

// choose serves peers, and by their protocol others who share the port.
func (i Identity) choose(others map[string]Other) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			for _, p := range hello.SupportedProtos {
				if o, ok := others[p]; ok && p != PeerProtocol {
					c := o.Config()
					c.MinVersion, c.NextProtos = tls.VersionTLS13, []string{p}
					return c, nil
				}
			}
			return i.server(), nil
		},
	}
}

// client expects the node called peer at the other end.
func (i Identity) client(peer string) *tls.Config {
	c := i.base()
	c.RootCAs = i.Roots()
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
