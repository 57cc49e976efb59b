package pki

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// Pair is a certificate and its key on disk, read again when the certificate's
// file has changed. While a renewal is half written, and when one cannot be
// read, the last good pair is used.
type Pair struct {
	certPath, keyPath string

	mu      sync.Mutex
	current *tls.Certificate // guarded by mu
	changed time.Time        // of the certificate's file as read; guarded by mu
}

// NewPair returns the pair in two files.
func NewPair(certPath, keyPath string) *Pair { return &Pair{certPath: certPath, keyPath: keyPath} }

// Certificate returns the current pair, its leaf parsed.
func (p *Pair) Certificate() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	info, err := os.Stat(p.certPath)
	if err == nil && p.current != nil && info.ModTime().Equal(p.changed) {
		return p.current, nil
	}
	var cert tls.Certificate
	if err == nil {
		cert, err = tls.LoadX509KeyPair(p.certPath, p.keyPath)
	}
	if err != nil {
		if p.current != nil {
			return p.current, nil
		}
		return nil, fmt.Errorf("load certificate %s: %w", p.certPath, err)
	}
	p.current, p.changed = &cert, info.ModTime()
	return p.current, nil
}

// ForServer fits tls.Config.GetCertificate.
func (p *Pair) ForServer(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.Certificate() }

// ForClient fits tls.Config.GetClientCertificate.
func (p *Pair) ForClient(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return p.Certificate()
}
