package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// A node certificate names its node as Kubernetes does.
const (
	NodePrefix = "system:node:"
	NodeGroup  = "system:nodes"
)

// CellID names a cell by its authority: the SHA-256 of the certificate's
// SubjectPublicKeyInfo, in base64url without padding. Join tokens end in it.
func CellID(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// ReadCA returns the cell's authority as the first certificate of PEM data.
func ReadCA(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("read certificate authority: no certificate in PEM form")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	if !cert.IsCA {
		return nil, errors.New("read certificate authority: the certificate is not an authority's")
	}
	return cert, nil
}

// Request returns a request for a node certificate in DER form. The key is made
// in dir, or the one that an earlier attempt left there is taken, so that a
// host whose first answer was lost is known again. It never leaves the host.
func Request(dir, node string) ([]byte, error) {
	files := FilesIn(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create pki directory: %w", err)
	}
	key, err := loadKey(files.NodeKey)
	if err != nil {
		fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generate key of node %s: %w", node, err)
		}
		if err := saveKey(files.NodeKey, fresh); err != nil {
			return nil, err
		}
		key = fresh
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: NodePrefix + node, Organization: []string{NodeGroup}},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request of node %s: %w", node, err)
	}
	return der, nil
}

// Issuer signs node certificates with the cell's CA.
type Issuer struct{ files Files }

// NewIssuer returns the Issuer of a peer whose keys are in files.
func NewIssuer(files Files) Issuer { return Issuer{files} }

// SignNode returns a certificate for the node called name at ips, in DER form.
// Whoever calls it has decided that pub's holder is that node.
func (i Issuer) SignNode(pub crypto.PublicKey, name string, ips []net.IP, now time.Time) ([]byte, error) {
	ca, err := loadAuthority(i.files.CA, i.files.CAKey)
	if err != nil {
		return nil, err
	}
	cert, err := ca.issue(leavesOf(i.files, Names{Node: name, IPs: ips})[0].spec, pub, now, leafLife)
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}

// SaveJoined keeps what a host got when it joined: its certificate, for the key
// that Request made, the cell's CA and the gossip keyring.
func SaveJoined(dir string, node, ca []byte, ring [][]byte) error {
	files := FilesIn(dir)
	cert, err := x509.ParseCertificate(node)
	if err != nil {
		return fmt.Errorf("read node certificate: %w", err)
	}
	if err := WriteFile(files.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca}), 0o644); err != nil {
		return err
	}
	if err := WriteFile(files.GossipKeys, EncodeRing(ring), 0o600); err != nil {
		return err
	}
	if err := writePEM(files.Node, "CERTIFICATE", cert.Raw, 0o644); err != nil {
		return err
	}
	_, _, err = load(files.Node, files.NodeKey)
	return err
}
