package api_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestStopSignalsAreKept: what a container is to be ended by is stored, and
// refused where the API cannot know what system the name is of.
func TestStopSignalsAreKept(t *testing.T) {
	const ns = "stopsignals"
	if _, err := peer.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	sig := corev1.SIGUSR1
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "main", Image: "hello", Lifecycle: &corev1.Lifecycle{StopSignal: &sig}}},
	}}
	if _, err := peer.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("without os.name: %v", err)
	}
	pod.Spec.OS = &corev1.PodOS{Name: corev1.Linux}
	got, err := peer.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if l := got.Spec.Containers[0].Lifecycle; l == nil || l.StopSignal == nil || *l.StopSignal != sig {
		t.Errorf("stored: %+v", l)
	}
	got.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", StopSignal: &sig}}
	if got, err = peer.Client.CoreV1().Pods(ns).UpdateStatus(t.Context(), got, metav1.UpdateOptions{}); err != nil || got.Status.ContainerStatuses[0].StopSignal == nil {
		t.Errorf("its status: %+v, %v", got, err)
	}
}
