package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/gossip/join/token"
)

// TestJoinTokensEnd: one that expired, one that expires meanwhile, and one that
// stays, as does a secret that is no token.
func TestJoinTokensEnd(t *testing.T) {
	secrets := peer.Client.CoreV1().Secrets(token.Namespace)
	if _, err := peer.Client.CoreV1().Namespaces().Get(t.Context(), token.Namespace, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		if _, err := peer.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: token.Namespace}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create := func(expires time.Duration) string {
		s := token.ToSecret(token.Stored{ID: token.New("cell").ID, Secret: token.New("cell").Secret, Expires: time.Now().Add(expires)})
		made, err := secrets.Create(t.Context(), s, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return made.Name
	}
	gone := func(name string) bool {
		_, err := secrets.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		return err != nil
	}
	over, soon, later := create(-time.Hour), create(3*time.Second), create(time.Hour)
	deadline := time.Now().Add(2 * time.Minute)
	for !gone(over) || !gone(soon) {
		if time.Now().After(deadline) {
			t.Fatalf("left: expired %v, expiring %v", !gone(over), !gone(soon))
		}
		time.Sleep(50 * time.Millisecond)
	}
	if gone(later) {
		t.Error("a token that is good is gone")
	}
}
