package api

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// eventSource is who this package's Events are from.
const eventSource = "shoal"

// postEvent makes a warning about an object.
func postEvent(ctx context.Context, client kubernetes.Interface, about corev1.ObjectReference, reason, message string) error {
	// The name is made as client-go's recorder makes it.
	return postNamedEvent(ctx, client, fmt.Sprintf("%s.%x", about.Name, time.Now().UnixNano()), about, reason, message)
}

// postNamedEvent is postEvent for what several peers tell alike: one of a name
// is enough.
func postNamedEvent(ctx context.Context, client kubernetes.Interface, name string, about corev1.ObjectReference, reason, message string) error {
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	now := metav1.Now()
	_, err := client.CoreV1().Events(namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: name},
		InvolvedObject: about,
		Type:           corev1.EventTypeWarning,
		Reason:         reason,
		Message:        message,
		Source:         corev1.EventSource{Component: eventSource},
		FirstTimestamp: now,
		LastTimestamp:  now,
		Count:          1,
	}, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
		return nil // the namespace went away, and the object with it; or somebody was faster
	}
	if err != nil {
		return fmt.Errorf("make event %s: %w", reason, err)
	}
	return nil
}
