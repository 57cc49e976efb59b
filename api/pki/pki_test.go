package pki

import (
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func names(ips ...string) Names {
	n := Names{Node: "host1", DNS: []string{"kubernetes", "kubernetes.default.svc"}}
	for _, ip := range ips {
		n.IPs = append(n.IPs, net.ParseIP(ip))
	}
	return n
}

func serial(t *testing.T, cert, key string) string {
	t.Helper()
	c, _, err := load(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return c.SerialNumber.String()
}

func TestEnsureKeepsWhatIsGoodAndRenewsWhatIsNot(t *testing.T) {
	dir, start := t.TempDir(), time.Now()
	files, err := Ensure(dir, names("10.0.0.1"), start)
	if err != nil {
		t.Fatal(err)
	}
	ca, server := serial(t, files.CA, files.CAKey), serial(t, files.APIServer, files.APIServerKey)

	again := func(n Names, at time.Time) {
		t.Helper()
		if _, err := Ensure(dir, n, at); err != nil {
			t.Fatal(err)
		}
	}
	again(names("10.0.0.1"), start.Add(time.Hour))
	if got := serial(t, files.APIServer, files.APIServerKey); got != server {
		t.Error("a certificate with all names and a young age was replaced")
	}
	again(names("10.0.0.1", "192.0.2.7"), start.Add(time.Hour))
	renamed := serial(t, files.APIServer, files.APIServerKey)
	if renamed == server {
		t.Error("a certificate lacking a wanted address was kept")
	}
	again(names("10.0.0.1", "192.0.2.7"), start.Add(leafLife*3/4))
	if serial(t, files.APIServer, files.APIServerKey) == renamed {
		t.Error("a certificate past two thirds of its life was kept")
	}
	if serial(t, files.CA, files.CAKey) != ca {
		t.Error("the certificate authority was replaced")
	}
}

func TestLeavesVerifyAgainstTheirAuthority(t *testing.T) {
	files, err := Ensure(t.TempDir(), names("10.0.0.1"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca, _, err := load(files.CA, files.CAKey)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	cert, _, err := load(files.APIServer, files.APIServerKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "kubernetes.default.svc"}); err != nil {
		t.Error(err)
	}
	front, _, err := load(files.FrontProxy, files.FrontProxyKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := front.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("a front proxy certificate is accepted as a client of the cell's CA")
	}
}

func TestPrivateKeysAreNotReadableByOthers(t *testing.T) {
	files, err := Ensure(t.TempDir(), names(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{files.CAKey, files.APIServerKey, files.AdminKey, files.ServiceAccountKey, files.FrontProxyCAKey} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
	}
}

func TestALostHalfIsReportedNotReplaced(t *testing.T) {
	for _, name := range []string{"ca.crt", "ca.key", "sa.key"} {
		dir := t.TempDir()
		if _, err := Ensure(dir, names(), time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := Ensure(dir, names(), time.Now()); err == nil {
			t.Errorf("%s was lost and made anew without a word", name)
		}
	}
}

func TestADamagedAuthorityIsReportedNotReplaced(t *testing.T) {
	dir := t.TempDir()
	files, err := Ensure(dir, names(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.CA, []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(dir, names(), time.Now()); err == nil {
		t.Fatal("a damaged authority went unnoticed")
	}
	if data, _ := os.ReadFile(files.CA); string(data) != "garbage" {
		t.Error("the damaged authority was overwritten")
	}
}
