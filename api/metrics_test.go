package api_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	registration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"
)

// TestMetricsWithoutHosts looks at the group where no agent answers; those of
// the agent have it with one.
func TestMetricsWithoutHosts(t *testing.T) {
	client, err := metricsclient.NewForConfig(peer.ClientConfig("test"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "metrics.k8s.io in discovery", func(context.Context) bool {
		list, err := peer.Client.Discovery().ServerResourcesForGroupVersion("metrics.k8s.io/v1beta1")
		return err == nil && len(list.APIResources) == 2 && list.APIResources[0].Kind == "NodeMetrics"
	})
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "unheard", Labels: map[string]string{"a": "b"}}}
	if _, err := peer.Client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = peer.Client.CoreV1().Nodes().Delete(context.WithoutCancel(t.Context()), node.Name, metav1.DeleteOptions{})
	}()
	pods, err := client.MetricsV1beta1().PodMetricses("").List(t.Context(), metav1.ListOptions{LabelSelector: "x=y"})
	if err != nil || len(pods.Items) != 0 {
		t.Errorf("pods: %+v, %v", pods, err)
	}
	nodes, err := client.MetricsV1beta1().NodeMetricses().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 0 {
		t.Errorf("nodes: %+v, %v", nodes, err)
	}
	if _, err := client.MetricsV1beta1().NodeMetricses().Get(t.Context(), "nothere", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a node that is not: %v", err)
	}
	if _, err := client.MetricsV1beta1().PodMetricses("default").Get(t.Context(), "nothere", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod that is not: %v", err)
	}
	eventually(t, "the role that view and edit take in", func(ctx context.Context) bool {
		role, err := peer.Client.RbacV1().ClusterRoles().Get(ctx, "system:aggregated-metrics-reader", metav1.GetOptions{})
		return err == nil && role.Labels["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
	})
}

// TestMetricsOfAnotherServer has a user's own server take the group over and
// give it back.
func TestMetricsOfAnotherServer(t *testing.T) {
	const name = "v1beta1.metrics.k8s.io"
	client, err := aggregator.NewForConfig(peer.ClientConfig("test"))
	if err != nil {
		t.Fatal(err)
	}
	services := client.APIServices()
	eventually(t, "our registration", func(ctx context.Context) bool {
		s, err := services.Get(ctx, name, metav1.GetOptions{})
		if err != nil || s.Spec.Service != nil {
			return false
		}
		s.Spec.Service = &registration.ServiceReference{Namespace: "kube-system", Name: "metrics-server"}
		s.Spec.InsecureSkipTLSVerify = true
		_, err = services.Update(ctx, s, metav1.UpdateOptions{})
		return err == nil
	})
	metrics, err := metricsclient.NewForConfig(peer.ClientConfig("test"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "requests to go to the other server, which is not there", func(ctx context.Context) bool {
		_, err := metrics.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{})
		return apierrors.IsServiceUnavailable(err)
	})
	if err := services.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the group to be ours again", func(ctx context.Context) bool {
		_, err := metrics.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{})
		return err == nil
	})
}
