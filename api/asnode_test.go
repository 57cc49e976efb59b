package api_test

import (
	"context"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestANodeActsAsItselfOnly(t *testing.T) {
	node := clientset(t, peer.NodeClientConfig("agent"))
	who, err := node.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "system:node:host1" {
		t.Fatalf("%v, %v", who, err)
	}
	mine := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host1", Labels: map[string]string{corev1.LabelHostname: "host1"}}}
	mine.Spec.PodCIDR = "10.64.9.0/24"
	mine, err = node.CoreV1().Nodes().Create(t.Context(), mine, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("its own node: %v", err)
	}
	defer func() { _ = peer.Client.CoreV1().Nodes().Delete(context.Background(), "host1", metav1.DeleteOptions{}) }()
	mine.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if _, err := node.CoreV1().Nodes().UpdateStatus(t.Context(), mine, metav1.UpdateOptions{}); err != nil {
		t.Errorf("its own status: %v", err)
	}
	holder := "host1"
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: holder}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder}}
	eventually(t, "its own lease", func(ctx context.Context) bool {
		_, err := node.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, lease, metav1.CreateOptions{})
		return err == nil || apierrors.IsAlreadyExists(err)
	})
	if _, err := node.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host2"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another node was made: %v", err)
	}
	other, err := peer.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host3"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Client.CoreV1().Nodes().Delete(context.Background(), "host3", metav1.DeleteOptions{}) }()
	other.Status.Conditions = mine.Status.Conditions
	if _, err := node.CoreV1().Nodes().UpdateStatus(t.Context(), other, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another node's status was written: %v", err)
	}
	other.Labels = map[string]string{"x": "y"}
	if _, err := node.CoreV1().Nodes().Update(t.Context(), other, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another node was written: %v", err)
	}
}

func TestANodeReadsTheSecretsOfItsPodsOnly(t *testing.T) {
	node := clientset(t, peer.NodeClientConfig("agent"))
	namespace, err := peer.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "secrets"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ns := namespace.Name
	if _, err := peer.Client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"used", "foreign", "unused"} {
		if _, err := peer.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pods := map[string]*corev1.Pod{}
	for host, secret := range map[string]string{"host1": "used", "host9": "foreign"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "on-" + host}, Spec: corev1.PodSpec{
			NodeName:   host,
			Containers: []corev1.Container{{Name: "main", Image: "hello"}},
			Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}},
		}}
		if pods[host], err = peer.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a secret of a pod here", func(ctx context.Context) bool {
		_, err := node.CoreV1().Secrets(ns).Get(ctx, "used", metav1.GetOptions{})
		return err == nil
	})
	if _, err := node.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=used"}); err != nil {
		t.Errorf("a watch of a secret of a pod here: %v", err)
	}
	for _, name := range []string{"foreign", "unused"} {
		if _, err := node.CoreV1().Secrets(ns).Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("secret %s: %v", name, err)
		}
	}
	if _, err := node.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("all secrets: %v", err)
	}
	pods["host1"].Status.Phase = corev1.PodRunning
	if _, err := node.CoreV1().Pods(ns).UpdateStatus(t.Context(), pods["host1"], metav1.UpdateOptions{}); err != nil {
		t.Errorf("status of a pod here: %v", err)
	}
	pods["host9"].Status.Phase = corev1.PodFailed
	if _, err := node.CoreV1().Pods(ns).UpdateStatus(t.Context(), pods["host9"], metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("status of a pod elsewhere: %v", err)
	}
	if err := node.CoreV1().Pods(ns).Delete(t.Context(), pods["host9"].Name, metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("deletion of a pod elsewhere: %v", err)
	}
}
