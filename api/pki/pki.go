// Package pki makes and keeps the certificates and keys of one host: those a
// whole cell shares (the certificate authorities, the key that signs service
// account tokens, the gossip keyring; see Keys) and the host's own leaves (the
// node's certificate, the API server's and the agent's serving certificates,
// the client certificates of the administrator, of the API server towards
// agents and of the aggregation layer).
//
// What always holds: private keys are written with mode 0600 and atomically
// (a crash leaves the old file or the new one); the authorities and the service
// account key are never replaced once made; a leaf certificate is made anew
// when it is missing, no longer matches its names or its key, is signed by
// another CA or has used up two thirds of its life, at start and, by a Keeper,
// while the daemon runs.
//
// Called by the daemon. It knows nothing of Kubernetes objects, and of the
// store only Records.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// caLife is long because replacing a CA means re-issuing every kubeconfig.
	caLife = 10 * 365 * 24 * time.Hour
	// leafLife is what kubeadm users expect of a serving or client certificate.
	leafLife = 365 * 24 * time.Hour
	// backdate tolerates hosts whose clocks trail this one's.
	backdate = 5 * time.Minute
)

// Files names every file of a host's PKI. All paths are absolute.
type Files struct {
	Dir string

	CA, CAKey                         string
	Node, NodeKey                     string
	APIServer, APIServerKey           string
	AgentServer, AgentServerKey       string
	AgentClient, AgentClientKey       string
	Admin, AdminKey                   string
	FrontProxyCA, FrontProxyCAKey     string
	FrontProxy, FrontProxyKey         string
	ServiceAccountKey, ServiceAccount string
	GossipKeys                        string
}

// FilesIn returns the file names used below dir.
func FilesIn(dir string) Files {
	at := func(name string) string { return filepath.Join(dir, name) }
	return Files{
		Dir: dir,
		CA:  at("ca.crt"), CAKey: at("ca.key"),
		Node: at("node.crt"), NodeKey: at("node.key"),
		APIServer: at("apiserver.crt"), APIServerKey: at("apiserver.key"),
		AgentServer: at("agent.crt"), AgentServerKey: at("agent.key"),
		AgentClient: at("apiserver-agent-client.crt"), AgentClientKey: at("apiserver-agent-client.key"),
		Admin: at("admin.crt"), AdminKey: at("admin.key"),
		FrontProxyCA: at("front-proxy-ca.crt"), FrontProxyCAKey: at("front-proxy-ca.key"),
		FrontProxy: at("front-proxy-client.crt"), FrontProxyKey: at("front-proxy-client.key"),
		ServiceAccountKey: at("sa.key"), ServiceAccount: at("sa.pub"),
		GossipKeys: at("gossip.keys"),
	}
}

// Names are the identities the serving certificates must cover.
type Names struct {
	Node string
	DNS  []string
	IPs  []net.IP
}

// Ensure makes what is missing or no longer good below dir, a cell's shared
// keys included, and returns the file names. now is handed in so that renewal
// can be tested.
func Ensure(dir string, names Names, now time.Time) (Files, error) {
	files := FilesIn(dir)
	if err := ensureShared(files, now); err != nil {
		return files, err
	}
	_, err := ensureLeaves(files, names, now, leafLife)
	return files, err
}

// ensureShared makes what a whole cell shares, on the cell's first host.
func ensureShared(files Files, now time.Time) error {
	if err := os.MkdirAll(files.Dir, 0o700); err != nil {
		return fmt.Errorf("create pki directory: %w", err)
	}
	if err := ensureAuthority(files.CA, files.CAKey, "shoal-ca", now); err != nil {
		return err
	}
	if err := ensureAuthority(files.FrontProxyCA, files.FrontProxyCAKey, "shoal-front-proxy-ca", now); err != nil {
		return err
	}
	if err := ensureSigningKey(files.ServiceAccountKey, files.ServiceAccount); err != nil {
		return err
	}
	return ensureRing(files.GossipKeys)
}

// hostLeaf is one of a host's certificates.
type hostLeaf struct {
	name      string // for people
	front     bool   // signed by the front proxy's authority
	cert, key string
	spec      leaf
}

// leavesOf lists a host's own certificates.
func leavesOf(files Files, names Names) []hostLeaf {
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	node := leaf{cn: NodePrefix + names.Node, org: NodeGroup, dns: []string{names.Node}, ips: names.IPs, usage: both}
	return []hostLeaf{
		{name: "node", cert: files.Node, key: files.NodeKey, spec: node},
		{name: "apiserver", cert: files.APIServer, key: files.APIServerKey, spec: leaf{cn: "shoal-apiserver", dns: names.DNS, ips: names.IPs, usage: both}},
		{name: "agent", cert: files.AgentServer, key: files.AgentServerKey, spec: node},
		{name: "apiserver-agent-client", cert: files.AgentClient, key: files.AgentClientKey, spec: leaf{cn: "shoal-apiserver-agent-client", org: "system:masters", usage: client}},
		{name: "admin", cert: files.Admin, key: files.AdminKey, spec: leaf{cn: "shoal-admin", org: "system:masters", usage: client}},
		{name: "front-proxy-client", front: true, cert: files.FrontProxy, key: files.FrontProxyKey, spec: leaf{cn: "front-proxy-client", usage: client}},
	}
}

// ensureLeaves renews the host's certificates that need it, with a life of life,
// and returns their names.
func ensureLeaves(files Files, names Names, now time.Time, life time.Duration) ([]string, error) {
	ca, err := loadAuthority(files.CA, files.CAKey)
	if err != nil {
		return nil, err
	}
	front, err := loadAuthority(files.FrontProxyCA, files.FrontProxyCAKey)
	if err != nil {
		return nil, err
	}
	var renewed []string
	for _, l := range leavesOf(files, names) {
		signer := ca
		if l.front {
			signer = front
		}
		fresh, err := signer.ensureLeaf(l.cert, l.key, l.spec, now, life)
		if err != nil {
			return renewed, err
		}
		if fresh {
			renewed = append(renewed, l.name)
		}
	}
	return renewed, nil
}

type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func loadAuthority(certPath, keyPath string) (*authority, error) {
	cert, key, err := load(certPath, keyPath)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority %s: %w", certPath, err)
	}
	return &authority{cert, key}, nil
}

func ensureAuthority(certPath, keyPath, name string, now time.Time) error {
	_, _, err := load(certPath, keyPath)
	if err == nil {
		return nil
	}
	if !os.IsNotExist(err) || exists(certPath) || exists(keyPath) {
		return fmt.Errorf("read certificate authority %s: %w; restore it from a backup, or remove the data directory to start a new cell", certPath, err)
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generate key of %s: %w", name, err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := sign(template, template, signer.Public(), signer)
	if err != nil {
		return err
	}
	return save(certPath, keyPath, cert, signer)
}

type leaf struct {
	cn, org string
	dns     []string
	ips     []net.IP
	usage   []x509.ExtKeyUsage
}

func (a *authority) ensureLeaf(certPath, keyPath string, l leaf, now time.Time, life time.Duration) (renewed bool, err error) {
	if cert, _, err := load(certPath, keyPath); err == nil && a.stillGood(cert, l, now) {
		return false, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return false, fmt.Errorf("generate key of %s: %w", l.cn, err)
	}
	cert, err := a.issue(l, key.Public(), now, life)
	if err != nil {
		return false, err
	}
	return true, save(certPath, keyPath, cert, key)
}

func (a *authority) issue(l leaf, pub crypto.PublicKey, now time.Time, life time.Duration) (*x509.Certificate, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: l.cn},
		NotBefore:   now.Add(-min(backdate, life/4)),
		NotAfter:    now.Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: l.usage,
		DNSNames:    l.dns,
		IPAddresses: l.ips,
	}
	if l.org != "" {
		template.Subject.Organization = []string{l.org}
	}
	return sign(template, a.cert, pub, a.key)
}

// renewAt is when a certificate has used up two thirds of its life.
func renewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
}

// stillGood reports whether cert can go on serving as l: signed by this CA,
// with every wanted name, and younger than two thirds of its life.
func (a *authority) stillGood(cert *x509.Certificate, l leaf, now time.Time) bool {
	if now.Before(cert.NotBefore) || !now.Before(renewAt(cert)) {
		return false
	}
	if cert.CheckSignatureFrom(a.cert) != nil || cert.Subject.CommonName != l.cn {
		return false
	}
	for _, name := range l.dns {
		if !slices.Contains(cert.DNSNames, name) {
			return false
		}
	}
	for _, ip := range l.ips {
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

func sign(template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("draw certificate serial: %w", err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate %s: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func ensureSigningKey(keyPath, pubPath string) error {
	key, err := loadKey(keyPath)
	if os.IsNotExist(err) && !exists(pubPath) {
		fresh, genErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if genErr != nil {
			return fmt.Errorf("generate service account key: %w", genErr)
		}
		key, err = fresh, saveKey(keyPath, fresh)
	}
	if err != nil {
		return fmt.Errorf("read service account key %s: %w; restore it from a backup: every token issued so far was signed with it", keyPath, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode service account public key: %w", err)
	}
	return writePEM(pubPath, "PUBLIC KEY", der, 0o644)
}

// exists tells a file that was lost from one that was never made: its other
// half is still there.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func load(certPath, keyPath string) (*x509.Certificate, crypto.Signer, error) {
	cert, err := readCert(certPath)
	if err != nil {
		return nil, nil, err
	}
	key, err := loadKey(keyPath)
	if err != nil {
		return nil, nil, err
	}
	if pub, ok := key.Public().(*ecdsa.PublicKey); !ok || !pub.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s does not hold the key of %s", keyPath, certPath)
	}
	return cert, key, nil
}

func readCert(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("no PEM block in %s", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

func loadKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("no PEM block in %s", path)
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

// save writes the key first: a certificate without its key is of no use,
// while a key without a certificate is simply replaced.
func save(certPath, keyPath string, cert *x509.Certificate, key *ecdsa.PrivateKey) error {
	if err := saveKey(keyPath, key); err != nil {
		return err
	}
	return writePEM(certPath, "CERTIFICATE", cert.Raw, 0o644)
}

func saveKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode private key: %w", err)
	}
	return writePEM(path, "EC PRIVATE KEY", der, 0o600)
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

// WriteFile replaces path by data, synced, so that a crash leaves the old
// content or the new one and never a part.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, writeErr := tmp.Write(data)
	err = errors.Join(tmp.Chmod(mode), writeErr, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
