package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"shoal/api"
	"shoal/api/apitest"
)

var peer *apitest.Peer

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "shoal-api-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := other.open(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer other.db.Close()
	if peer, err = apitest.StartOn(context.Background(), dir, slog.New(slog.DiscardHandler), other.store(), other.join, mountExtra, func(o *api.Options) { o.ServiceCIDR6 = serviceRange6 }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := peer.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func eventually(t *testing.T, what string, check func(context.Context) bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 3*time.Minute, true, func(ctx context.Context) (bool, error) {
		return check(ctx), nil
	})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func nodePortService(name string, port int32) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Type:  corev1.ServiceTypeNodePort,
			Ports: []corev1.ServicePort{{Port: 80, NodePort: port}},
		},
	}
}

func TestTheKubernetesServicePointsHere(t *testing.T) {
	eventually(t, "the kubernetes service at the range's first address", func(ctx context.Context) bool {
		service, err := peer.Client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		return err == nil && service.Spec.ClusterIP == "10.0.0.1"
	})
	eventually(t, "endpoints of the kubernetes service", func(ctx context.Context) bool {
		slice, err := peer.Client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes-host1", metav1.GetOptions{})
		return err == nil && slice.Endpoints[0].Addresses[0] == "192.0.2.1" && strings.HasSuffix(peer.URL, fmt.Sprint(*slice.Ports[0].Port))
	})
}

// TestTheKubernetesServiceComesBack: whoever deletes it has a new one. All of these
// come within the time in which upstream's loop looks once.
func TestTheKubernetesServiceComesBack(t *testing.T) {
	services := peer.Client.CoreV1().Services("default")
	seen, deletions := map[types.UID]bool{}, 5
	eventually(t, "kubernetes services, one after another", func(ctx context.Context) bool {
		now, err := services.Get(ctx, "kubernetes", metav1.GetOptions{})
		if err != nil || seen[now.UID] || now.Spec.ClusterIP != "10.0.0.1" {
			return false
		}
		if len(seen) == deletions {
			return true
		}
		seen[now.UID] = true
		if err := services.Delete(ctx, "kubernetes", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		return false
	})
}

func TestServicesHoldTheirAddressAndPortAlone(t *testing.T) {
	services := peer.Client.CoreV1().Services("default")
	first, err := services.Create(t.Context(), nodePortService("first", 0), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	port := first.Spec.Ports[0].NodePort
	if _, err := services.Create(t.Context(), nodePortService("second", port), metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("a taken node port: %v", err)
	}
	same := nodePortService("second", 0)
	same.Spec.ClusterIP = first.Spec.ClusterIP
	if _, err := services.Create(t.Context(), same, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("a taken cluster IP: %v", err)
	}
	if _, err := services.Create(t.Context(), nodePortService("second", 80), metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "30000-32767") {
		t.Errorf("a node port out of range: %v", err)
	}
	if err := services.Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	again, err := services.Create(t.Context(), nodePortService("second", port), metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("a node port given back: %v", err)
	}
	if err := services.Delete(t.Context(), again.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// serviceRange6 is the second range of the peer of these tests.
var serviceRange6 = netip.MustParsePrefix("fd00:10::/112")

func TestDualStackServices(t *testing.T) {
	services := peer.Client.CoreV1().Services("default")
	four, six := corev1.IPv4Protocol, corev1.IPv6Protocol
	for _, c := range []struct {
		name     string
		policy   corev1.IPFamilyPolicy // empty: none is given
		families []corev1.IPFamily
		want     []corev1.IPFamily
	}{
		{"plain", "", nil, []corev1.IPFamily{four}},
		{"single", corev1.IPFamilyPolicySingleStack, nil, []corev1.IPFamily{four}},
		{"six", "", []corev1.IPFamily{six}, []corev1.IPFamily{six}},
		{"prefer", corev1.IPFamilyPolicyPreferDualStack, nil, []corev1.IPFamily{four, six}},
		{"require", corev1.IPFamilyPolicyRequireDualStack, []corev1.IPFamily{six, four}, []corev1.IPFamily{six, four}},
	} {
		s := nodePortService("dual-"+c.name, 0)
		s.Spec.IPFamilies = c.families
		if c.policy != "" {
			s.Spec.IPFamilyPolicy = &c.policy
		}
		made, err := services.Create(t.Context(), s, metav1.CreateOptions{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !slices.Equal(made.Spec.IPFamilies, c.want) || len(made.Spec.ClusterIPs) != len(c.want) {
			t.Errorf("%s: families %v, addresses %v", c.name, made.Spec.IPFamilies, made.Spec.ClusterIPs)
			continue
		}
		for i, family := range c.want {
			addr := netip.MustParseAddr(made.Spec.ClusterIPs[i])
			if in := serviceRange6.Contains(addr); in != (family == six) || !in && !api.DefaultServiceCIDR.Contains(addr) {
				t.Errorf("%s: %s for %s", c.name, addr, family)
			}
		}
		same := nodePortService("dual-same", 0)
		same.Spec.IPFamilies, same.Spec.IPFamilyPolicy, same.Spec.ClusterIPs = made.Spec.IPFamilies, made.Spec.IPFamilyPolicy, made.Spec.ClusterIPs
		same.Spec.ClusterIP = made.Spec.ClusterIP
		if _, err := services.Create(t.Context(), same, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
			t.Errorf("%s: its addresses for another: %v", c.name, err)
		}
		if err := services.Delete(t.Context(), made.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
}

func TestADryRunClaimsNothing(t *testing.T) {
	services := peer.Client.CoreV1().Services("default")
	const port = 31234
	for range 2 {
		if _, err := services.Create(t.Context(), nodePortService("dry", port), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := services.Create(t.Context(), nodePortService("wet", port), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := services.Delete(t.Context(), "wet", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyThoseWithCredentialsGetIn(t *testing.T) {
	anonymous := clientset(t, &rest.Config{Host: peer.URL, TLSClientConfig: rest.TLSClientConfig{CAFile: peer.PKI.CA}})
	if _, err := anonymous.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("nobody: %v", err)
	}
	admin := clientset(t, &rest.Config{Host: peer.URL, TLSClientConfig: rest.TLSClientConfig{
		CAFile: peer.PKI.CA, CertFile: peer.PKI.Admin, KeyFile: peer.PKI.AdminKey}})
	if _, err := admin.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("the administrator: %v", err)
	}
	forged := clientset(t, &rest.Config{Host: peer.URL, TLSClientConfig: rest.TLSClientConfig{
		CAFile: peer.PKI.CA, CertFile: peer.PKI.FrontProxy, KeyFile: peer.PKI.FrontProxyKey}})
	if _, err := forged.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("a certificate of the front proxy's authority was let in")
	}
}

func TestServiceAccountTokensWorkUntilTheAccountGoes(t *testing.T) {
	accounts := peer.Client.CoreV1().ServiceAccounts("default")
	if _, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := accounts.CreateToken(t.Context(), "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	robot := clientset(t, &rest.Config{Host: peer.URL, BearerToken: token.Status.Token, TLSClientConfig: rest.TLSClientConfig{CAFile: peer.PKI.CA}})
	who := func(ctx context.Context) (string, error) {
		review, err := robot.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return review.Status.UserInfo.Username, nil
	}
	if name, err := who(t.Context()); err != nil || name != "system:serviceaccount:default:robot" {
		t.Fatalf("%q, %v", name, err)
	}
	if err := accounts.Delete(t.Context(), "robot", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refusal of a deleted account's token", func(ctx context.Context) bool {
		_, err := who(ctx)
		return apierrors.IsUnauthorized(err)
	})
}

func TestAPodRangeIsKept(t *testing.T) {
	first, err := api.ClaimPodCIDR(t.Context(), peer.DB, "host1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := api.ClaimPodCIDR(t.Context(), peer.DB, "host1")
	if err != nil || again != first {
		t.Errorf("second claim %s, %v; want %s", again, err, first)
	}
	other, err := api.ClaimPodCIDR(t.Context(), peer.DB, "host2")
	if err != nil || other.Overlaps(first) {
		t.Errorf("another host got %s, %v, beside %s", other, err, first)
	}
}

func clientset(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}
