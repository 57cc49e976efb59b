package controllers

import (
	"fmt"
	"testing"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/sched/internal/testpeer"
)

func newDeployment(name string, replicas int32) *apps.Deployment {
	labels := map[string]string{"app": name}
	return &apps.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: apps.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: v1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "none"}}},
			},
		},
	}
}

func bound(t *testing.T, ns string) (bound, all int) {
	t.Helper()
	pods, err := peer.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		if pod.Spec.NodeName != "" {
			bound++
		}
	}
	return bound, len(pods.Items)
}

func TestDeploymentBecomesBoundPods(t *testing.T) {
	ns := peer.Namespace(t)
	peer.Node(t, "deployment-node", map[v1.ResourceName]string{"cpu": "64", "memory": "64Gi", "pods": "200"})
	if _, err := peer.Client.AppsV1().Deployments(ns).Create(t.Context(), newDeployment("web", 100), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		if on, all := bound(t, ns); on != 100 || all != 100 {
			return fmt.Sprintf("%d of %d pods have a node, want 100 of 100", on, all)
		}
		return ""
	})
}
