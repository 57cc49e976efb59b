package controllers

import (
	"context"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// BenchmarkDeploymentToBound is how long a user's Deployment takes to become
// pods with a node, as a watching client sees it.
func BenchmarkDeploymentToBound(b *testing.B) {
	for _, c := range []struct {
		name     string
		replicas int32
	}{{"replicas=1", 1}, {"replicas=100", 100}} {
		b.Run(c.name, func(b *testing.B) {
			ns := peer.Namespace(b)
			peer.Node(b, "latency-node", map[v1.ResourceName]string{"cpu": "64", "memory": "64Gi", "pods": "100000"})
			var last time.Duration
			for b.Loop() {
				last = timeToBound(b, ns, c.replicas)
			}
			b.ReportMetric(float64(last.Microseconds())/1000, "last-ms")
		})
	}
}

func timeToBound(b *testing.B, ns string, replicas int32) time.Duration {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	pods, err := peer.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	w, err := peer.Client.CoreV1().Pods(ns).Watch(ctx, metav1.ListOptions{ResourceVersion: pods.ResourceVersion})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	began := time.Now()
	name := "d" + began.Format("150405.000000")[7:]
	if _, err := peer.Client.AppsV1().Deployments(ns).Create(ctx, newDeployment(name, replicas), metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	onNode := map[string]bool{}
	for event := range w.ResultChan() {
		pod, ok := event.Object.(*v1.Pod)
		if !ok || event.Type == watch.Deleted || pod.Labels["app"] != name || pod.Spec.NodeName == "" {
			continue
		}
		if onNode[pod.Name] = true; len(onNode) == int(replicas) {
			return time.Since(began)
		}
	}
	b.Fatal("watch ended")
	return 0
}
