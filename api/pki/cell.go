package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// CellFiles names, below a PKI directory, what a cell is known by: whoever has
// these is the same cell, and old kubeconfigs and tokens go on working. All
// other files are a host's own and are made anew from these.
func CellFiles() []string {
	files := FilesIn("")
	return []string{files.CA, files.CAKey, files.FrontProxyCA, files.FrontProxyCAKey, files.ServiceAccountKey, files.ServiceAccount}
}

// CellOf names the cell whose authority is in the file caPath: the SHA-256 of
// the certificate's SubjectPublicKeyInfo, in base64url without padding.
func CellOf(caPath string) (string, error) {
	cert, err := readCertificate(caPath)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// Validity is how long one certificate is good.
type Validity struct {
	Name string
	// Renews is when Ensure would make a new one; zero for an authority.
	Renews, Expires time.Time
}

// Validities reads the certificates of a host.
func (f Files) Validities() ([]Validity, error) {
	var found []Validity
	for _, path := range []string{f.CA, f.FrontProxyCA, f.APIServer, f.AgentServer, f.AgentClient, f.Admin, f.FrontProxy} {
		cert, err := readCertificate(path)
		if err != nil {
			return nil, err
		}
		v := Validity{Name: filepath.Base(path), Expires: cert.NotAfter}
		if !cert.IsCA {
			v.Renews = cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
		}
		found = append(found, v)
	}
	return found, nil
}

func readCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("read certificate %s: no PEM block", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", path, err)
	}
	return cert, nil
}
