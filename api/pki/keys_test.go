package pki

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shelf is a store in memory.
type shelf map[string][]byte

func (s shelf) CreateRecord(_ context.Context, key string, value []byte) (bool, error) {
	if _, ok := s[key]; ok {
		return false, nil
	}
	s[key] = bytes.Clone(value)
	return true, nil
}

func (s shelf) ListRecords(_ context.Context, prefix string) (map[string][]byte, error) {
	found := map[string][]byte{}
	for key, value := range s {
		if strings.HasPrefix(key, prefix) {
			found[key] = value
		}
	}
	return found, nil
}

func found(t *testing.T, dir string, records Records) Files {
	t.Helper()
	files, err := Found(t.Context(), dir, records, names("10.0.0.1"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestFilesAndRecordsRepairEachOther(t *testing.T) {
	dir, records := t.TempDir(), shelf{}
	files := found(t, dir, records)
	before, err := ReadKeys(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key", "gossip.keys"} {
		path := filepath.Join(dir, name)
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, damage := range []func() error{
			func() error { return os.Remove(path) },
			func() error { return os.WriteFile(path, []byte("garbage"), 0o600) },
			func() error { delete(records, KeysPrefix+name); return nil },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			found(t, dir, records)
			if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
				t.Errorf("file %s was not repaired", name)
			}
			if !bytes.Equal(records[KeysPrefix+name], want) {
				t.Errorf("record %s was not repaired", name)
			}
		}
	}
	after, err := ReadKeys(t.Context(), records)
	if err != nil || !bytes.Equal(after.CAKey, before.CAKey) || !bytes.Equal(after.Gossip, before.Gossip) {
		t.Errorf("the cell's keys changed: %v", err)
	}
	if info, err := os.Stat(files.CAKey); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a restored key: %v, %v", info.Mode(), err)
	}
}

func TestARotatedKeyringReachesTheFile(t *testing.T) {
	dir, records := t.TempDir(), shelf{}
	files := found(t, dir, records)
	rotated := EncodeRing([][]byte{NewRingKey(), NewRingKey()})
	records[KeysPrefix+"gossip.keys"] = rotated
	found(t, dir, records)
	if got, _ := os.ReadFile(files.GossipKeys); !bytes.Equal(got, rotated) {
		t.Error("the file still holds the old ring")
	}
}

func TestAnotherCellsFilesAreRefused(t *testing.T) {
	records, other := shelf{}, shelf{}
	found(t, t.TempDir(), records)
	dir := t.TempDir()
	files := found(t, dir, other)
	before, _ := os.ReadFile(files.CA)
	if _, err := Found(t.Context(), dir, records, names(), time.Now()); !errors.Is(err, ErrOtherCell) || !strings.Contains(err.Error(), "ca.crt") {
		t.Errorf("%v", err)
	}
	if after, _ := os.ReadFile(files.CA); !bytes.Equal(before, after) {
		t.Error("the authority was overwritten")
	}
}

func TestAJoinedHostMakesItsOwnCertificatesFromTheCellsKeys(t *testing.T) {
	records := shelf{}
	first := found(t, t.TempDir(), records)
	dir := t.TempDir()
	der, err := Request(dir, "host2")
	if err != nil {
		t.Fatal(err)
	}
	again, err := Request(dir, "host2")
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := x509.ParseCertificateRequest(again); err != nil || !bytes.Equal(second.RawSubjectPublicKeyInfo, request.RawSubjectPublicKeyInfo) {
		t.Errorf("a second attempt came with another key: %v", err)
	}
	node, err := NewIssuer(first).SignNode(request.PublicKey, "host2", []net.IP{net.IPv4(10, 0, 0, 2)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := readCert(first.CA)
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveJoined(dir, node, ca.Raw, [][]byte{NewRingKey()}); err != nil {
		t.Fatal(err)
	}

	partial := shelf{}
	for key, value := range records {
		if !strings.HasSuffix(key, "ca.key") {
			partial[key] = value
		}
	}
	if _, err := ReadKeys(t.Context(), partial); !errors.Is(err, ErrNoKeys) || !strings.Contains(err.Error(), "ca.key") {
		t.Errorf("half of a snapshot: %v", err)
	}
	keys, err := ReadKeys(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	second := Names{Node: "host2", DNS: []string{"host2"}, IPs: []net.IP{net.IPv4(10, 0, 0, 2)}}
	files, err := Materialize(dir, keys, second, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := readCert(files.Node); err != nil || !bytes.Equal(kept.Raw, node) {
		t.Errorf("the certificate from joining was replaced: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for _, path := range []string{files.Node, files.APIServer, files.AgentServer, files.Admin} {
		cert, err := readCert(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestAKeyringIsReadOrRefused(t *testing.T) {
	ring := [][]byte{NewRingKey(), NewRingKey()}
	got, err := DecodeRing(EncodeRing(ring))
	if err != nil || len(got) != 2 || !bytes.Equal(got[0], ring[0]) || !bytes.Equal(got[1], ring[1]) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "x", "YWJj\n", strings.Repeat(string(EncodeRing(ring)), maxRingKeys)} {
		if _, err := DecodeRing([]byte(bad)); err == nil {
			t.Errorf("%.20q was read", bad)
		}
	}
}
