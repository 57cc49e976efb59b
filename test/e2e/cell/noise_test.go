package cell

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"
)

const (
	noiseConnections = 100
	noisePackets     = 1000
	noiseBytes       = 4096
)

// TestNoise: strangers send random bytes to every port of a peer, and show
// certificates of another cell. Nobody is let in, and the cell goes on.
func TestNoise(t *testing.T) {
	whole(t)
	victim := peers[3]
	before, err := cell.Peers(t.Context())
	ok(t, err)
	address, err := cell.Address(victim.number)
	ok(t, err)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	noise := func() []byte {
		b := make([]byte, 1+random.IntN(noiseBytes))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	for _, port := range []string{"6443", "7946", "7947", "10250"} {
		target := net.JoinHostPort(address.String(), port)
		for range noiseConnections {
			conn, err := net.DialTimeout("tcp", target, answerWithin)
			if err != nil {
				t.Fatalf("port %s takes no connection any more: %v", port, err)
			}
			_ = conn.SetDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = conn.Write(noise())
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}
	for _, port := range []string{"7946", "8472"} {
		conn, err := net.Dial("udp", net.JoinHostPort(address.String(), port))
		ok(t, err)
		for range noisePackets {
			packet := noise()
			_, _ = conn.Write(packet[:min(len(packet), 1400)])
		}
		ok(t, conn.Close())
	}
	stranger := strangersCertificate(t)
	for _, port := range []string{"6443", "10250"} {
		client := &http.Client{Timeout: answerWithin, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{stranger}},
		}}
		response, err := client.Get("https://" + net.JoinHostPort(address.String(), port) + "/api/v1/secrets")
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode < http.StatusBadRequest {
				t.Errorf("port %s answers a stranger: %s", port, response.Status)
			}
		}
	}
	conn, err := tls.Dial("tcp", net.JoinHostPort(address.String(), "7947"), &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{stranger}, NextProtos: []string{"shoal-peer"},
	})
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(answerWithin))
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("the port of peers sent a stranger %d bytes", n)
		}
		_ = conn.Close()
	}

	whole(t)
	after, err := cell.Peers(t.Context())
	ok(t, err)
	for i := range before {
		if before[i].Pid != after[i].Pid {
			t.Errorf("the daemon of %s is another process now", before[i].Name)
		}
	}
}

// strangersCertificate says it is a node's, and was signed by itself.
func strangersCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	ok(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Subject:     pkix.Name{CommonName: fmt.Sprintf("system:node:%s", peers[1].name), Organization: []string{"system:nodes", "system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, key.Public(), key)
	ok(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
