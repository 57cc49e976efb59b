package api

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"

	"shoal/api/pki"
)

// asNode makes in-process requests as the holder of the node's certificate: the
// server verifies it and reads the name from it as it does for a connection.
type asNode struct {
	server *inproc
	node   *pki.Pair
}

// RoundTrip implements http.RoundTripper.
func (t asNode) RoundTrip(req *http.Request) (*http.Response, error) {
	pair, err := t.node.Certificate()
	if err != nil {
		return nil, fmt.Errorf("act as this node: %w", err)
	}
	return t.server.roundTrip(req, &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{pair.Leaf}})
}
