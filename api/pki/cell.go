package pki

import (
	"fmt"
	"os"
	"time"
)

// CellFiles names, below a PKI directory, what a cell is known by: whoever has
// these is the same cell, and old kubeconfigs and tokens go on working. All
// other files are a host's own and are made anew from these.
func CellFiles() []string {
	files := FilesIn("")
	return []string{files.CA, files.CAKey, files.FrontProxyCA, files.FrontProxyCAKey, files.ServiceAccountKey, files.ServiceAccount}
}

// Validity is how long one certificate is good.
type Validity struct {
	Name string
	// Renews is when Ensure would make a new one; zero for an authority.
	Renews, Expires time.Time
}

// Validities lists this host's certificates and the cell's authorities; one that
// is missing is left out.
func (f Files) Validities() ([]Validity, error) {
	list := []hostLeaf{{name: "ca", cert: f.CA}, {name: "front-proxy-ca", cert: f.FrontProxyCA}}
	var found []Validity
	for _, l := range append(list, leavesOf(f, Names{})...) {
		cert, err := readCert(l.cert)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return found, fmt.Errorf("read certificate %s: %w", l.name, err)
		}
		v := Validity{Name: l.name, Expires: cert.NotAfter}
		if !cert.IsCA {
			v.Renews = renewAt(cert)
		}
		found = append(found, v)
	}
	return found, nil
}
