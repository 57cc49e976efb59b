package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certsv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// signer is a CA that answers requests of pods.
type signer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{key, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (s *signer) answer(t *testing.T, r *certsv1.PodCertificateRequest) {
	t.Helper()
	request, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now().Add(-time.Minute).Truncate(time.Second)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: r.Spec.PodName}, DNSNames: []string{"pod"},
		NotBefore: begin, NotAfter: begin.Add(2 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, s.cert, request.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) *metav1.Time { x := metav1.NewTime(begin.Add(d)); return &x }
	r.Status = certsv1.PodCertificateRequestStatus{
		CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		NotBefore:        at(0), BeginRefreshAt: at(time.Hour), NotAfter: at(2 * time.Hour),
		Conditions: []metav1.Condition{{
			Type: certsv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue,
			Reason: "Issued", LastTransitionTime: metav1.Now(),
		}},
	}
	if _, err := peer.Client.CertificatesV1().PodCertificateRequests(r.Namespace).UpdateStatus(context.Background(), r, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestCertificates: a pod has its certificate, and what to trust, in a volume.
func TestCertificates(t *testing.T) {
	h := newHost(t, "certs")
	ctx := context.Background()
	ca := newSigner(t)
	bundle := &certsv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: "example.com:s:one"},
		Spec:       certsv1.ClusterTrustBundleSpec{SignerName: "example.com/s", TrustBundle: ca.pem},
	}
	if _, err := peer.Client.CertificatesV1().ClusterTrustBundles().Create(ctx, bundle, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	name, signerName := bundle.Name, "example.com/s"
	pod, err := peer.Client.CoreV1().Pods("default").Create(ctx, &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "certified"},
		Spec: v1.PodSpec{
			NodeName: h.name, TerminationGracePeriodSeconds: new(int64),
			Containers: []v1.Container{{
				Name: "main", Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"sh", "-c", sleeper},
				VolumeMounts: []v1.VolumeMount{{Name: "certs", MountPath: "/certs"}},
			}},
			Volumes: []v1.Volume{{Name: "certs", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
				{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{Name: &name, Path: "by-name"}},
				{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{SignerName: &signerName, LabelSelector: &metav1.LabelSelector{}, Path: "by-signer"}},
				{PodCertificate: &v1.PodCertificateProjection{SignerName: signerName, KeyType: "ECDSAP256", CredentialBundlePath: "mine"}},
			}}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h.eventually("a request for a certificate", func() bool {
		list, err := peer.Client.CertificatesV1().PodCertificateRequests("default").List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) == 0 {
			return false
		}
		ca.answer(t, &list.Items[0])
		return true
	})
	h.running("certified")
	dir := h.volume(pod.UID, "certs")
	for _, file := range []string{"by-name", "by-signer"} {
		if data, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(data) != ca.pem {
			t.Errorf("%s: %q, %v", file, data, err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "mine"))
	if err != nil || !strings.Contains(string(data), "PRIVATE KEY") || strings.Count(string(data), "BEGIN CERTIFICATE") != 1 {
		t.Errorf("credentials: %d bytes, %v", len(data), err)
	}
	if !strings.HasPrefix(dir, filepath.Join(h.options.DataDir, "agent", "secrets")) {
		t.Errorf("a private key is not on the tmpfs: %s", dir)
	}
	h.delete("certified")
}
