package api_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/api/loadbalancer"
	"shoal/api/loadbalancer/v1alpha1"
)

// TestServicesThatShareAnAddress: one of them goes and the other keeps it, and a
// port that both have at last ends it for the younger.
func TestServicesThatShareAnAddress(t *testing.T) {
	const address = "192.0.2.170"
	makePool(t, "shared", address)
	shares := func(port int32) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Annotations = map[string]string{v1alpha1.WantedAddresses: address, v1alpha1.SharingKey: "front"}
			s.Spec.Ports[0].Port = port
		}
	}
	makeService(t, balanced("lb-web", "shared", shares(80)))
	becomes(t, "lb-web", address, loadbalancer.ReasonAssigned)
	makeService(t, balanced("lb-tls", "shared", shares(443)))
	becomes(t, "lb-tls", address, loadbalancer.ReasonAssigned)
	makeService(t, balanced("lb-clash", "shared", shares(443)))
	becomes(t, "lb-clash", "", loadbalancer.ReasonTaken)
	awaitEvent(t, "default", "lb-clash", loadbalancer.ReasonTaken, "default/lb-tls has port 443/TCP")
	makeService(t, balanced("lb-any", "shared"))
	becomes(t, "lb-any", "", loadbalancer.ReasonEmpty)

	if err := peer.Client.CoreV1().Services("default").Delete(t.Context(), "lb-web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the claim is of who is left", func(context.Context) bool {
		return strings.Contains(claimsBelow(t, addressClaims+address)[address], "default/lb-tls ")
	})
	becomes(t, "lb-tls", address, loadbalancer.ReasonAssigned)

	change(t, "lb-clash", func(s *corev1.Service) { s.Spec.Ports[0].Port = 8443 })
	becomes(t, "lb-clash", address, loadbalancer.ReasonAssigned)
	change(t, "lb-tls", func(s *corev1.Service) { s.Spec.Ports[0].Port = 8443 })
	becomes(t, "lb-clash", "", loadbalancer.ReasonTaken)
}
