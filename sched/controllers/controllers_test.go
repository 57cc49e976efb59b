package controllers

import (
	"fmt"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

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

// TestANamespaceIsFilledAndEmptied: an account, a token's root of trust, and room to
// delete it all again.
func TestANamespaceIsFilledAndEmptied(t *testing.T) {
	ctx := t.Context()
	ns, err := peer.Client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "life-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		if _, err := peer.Client.CoreV1().ServiceAccounts(ns.Name).Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		ca, err := peer.Client.CoreV1().ConfigMaps(ns.Name).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if ca.Data["ca.crt"] != string(peer.RootCA) {
			return "the published root CA is not the peer's"
		}
		return ""
	})
	if _, err := peer.Client.AppsV1().Deployments(ns.Name).Create(ctx, newDeployment("web", 2), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := peer.Client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		if _, err := peer.Client.CoreV1().Namespaces().Get(ctx, ns.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Sprintf("the namespace is still there (%v)", err)
		}
		return ""
	})
}

// TestDependentsFollowTheirOwner.
func TestDependentsFollowTheirOwner(t *testing.T) {
	ns := peer.Namespace(t)
	ctx := t.Context()
	d, err := peer.Client.AppsV1().Deployments(ns).Create(ctx, newDeployment("web", 3), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owned := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name, UID: d.UID}}}}
	if _, err := peer.Client.CoreV1().ConfigMaps(ns).Create(ctx, owned, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		if _, all := bound(t, ns); all != 3 {
			return fmt.Sprintf("%d pods, want 3", all)
		}
		return ""
	})
	if err := peer.Client.AppsV1().Deployments(ns).Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		sets, err := peer.Client.AppsV1().ReplicaSets(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = peer.Client.CoreV1().ConfigMaps(ns).Get(ctx, "owned", metav1.GetOptions{})
		if _, pods := bound(t, ns); pods > 0 || len(sets.Items) > 0 || !apierrors.IsNotFound(err) {
			return fmt.Sprintf("%d pods and %d replica sets are left; config map: %v", pods, len(sets.Items), err)
		}
		return ""
	})
}

// countAnew changes a quota in what does not matter, which makes the controller
// count. Upstream's does so otherwise only when something goes, and every five
// minutes; what admission charged just before it wrote a count of its own is
// missing until then.
func countAnew(t *testing.T, ns string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"hard":{"services":"%d"}}}`, 1+time.Now().UnixMilli()%1_000_000)
	if _, err := peer.Client.CoreV1().ResourceQuotas(ns).Patch(t.Context(), "q", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestQuotaIsCountedAndHolds(t *testing.T) {
	ns := peer.Namespace(t)
	quota := &v1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: v1.ResourceQuotaSpec{Hard: v1.ResourceList{
		v1.ResourcePods: resource.MustParse("2"), "count/deployments.apps": resource.MustParse("1"),
	}}}
	if _, err := peer.Client.CoreV1().ResourceQuotas(ns).Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	used := func() v1.ResourceList {
		q, err := peer.Client.CoreV1().ResourceQuotas(ns).Get(t.Context(), "q", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return q.Status.Used
	}
	testpeer.Eventually(t, func() string {
		if len(used()) != 2 {
			return "the quota is not counted"
		}
		return ""
	})
	if _, err := peer.Client.AppsV1().Deployments(ns).Create(t.Context(), newDeployment("web", 4), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		_, pods := bound(t, ns)
		if pods > 2 {
			t.Fatalf("%d pods under a quota of 2", pods)
		}
		u := used()
		deployments := u["count/deployments.apps"]
		if pods != 2 || u.Pods().Value() != 2 || deployments.Value() != 1 {
			countAnew(t, ns)
			return fmt.Sprintf("%d pods, used %v", pods, u)
		}
		return ""
	})
	if _, err := peer.Client.AppsV1().Deployments(ns).Create(t.Context(), newDeployment("two", 1), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a second deployment under a quota of one: %v", err)
	}
}

func TestDisruptionBudgetIsCounted(t *testing.T) {
	ns := peer.Namespace(t)
	least := intstr.FromInt32(2)
	budget := &policy.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policy.PodDisruptionBudgetSpec{
		MinAvailable: &least, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}
	if _, err := peer.Client.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	createReplicaSet(t, ns, newReplicaSet("web", 3))
	testpeer.Eventually(t, func() string {
		b, err := peer.Client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), "b", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if b.Status.ExpectedPods != 3 || b.Status.DesiredHealthy != 2 {
			return fmt.Sprintf("status %+v", b.Status)
		}
		return ""
	})
}

func TestServicesGetTheirEndpoints(t *testing.T) {
	ns := peer.Namespace(t)
	service := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, Ports: []v1.ServicePort{{Port: 80}}}}
	if _, err := peer.Client.CoreV1().Services(ns).Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	peer.Node(t, "endpoints-node", map[v1.ResourceName]string{"cpu": "4", "memory": "4Gi", "pods": "10"})
	set := createReplicaSet(t, ns, newReplicaSet("web", 1))
	pod := podName(set.Name, set.UID, 0)
	awaitPods(t, ns, []string{pod})
	testpeer.Eventually(t, func() string {
		if on, _ := bound(t, ns); on != 1 {
			return "the pod has no node"
		}
		return ""
	})
	status := []byte(`{"status":{"phase":"Running","podIP":"10.64.0.7","podIPs":[{"ip":"10.64.0.7"}],"conditions":[{"type":"Ready","status":"True"}]}}`)
	if _, err := peer.Client.CoreV1().Pods(ns).Patch(t.Context(), pod, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		slices, err := peer.Client.DiscoveryV1().EndpointSlices(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range slices.Items {
			for _, e := range s.Endpoints {
				if e.Addresses[0] == "10.64.0.7" && e.Conditions.Ready != nil && *e.Conditions.Ready {
					return ""
				}
			}
		}
		return fmt.Sprintf("no ready endpoint in %d slices", len(slices.Items))
	})
}

// TestAJobRunsToItsEnd plays the host's part for its pods.
func TestAJobRunsToItsEnd(t *testing.T) {
	ns := peer.Namespace(t)
	spec := newDeployment("work", 1).Spec.Template
	spec.Spec.RestartPolicy = v1.RestartPolicyNever
	two := int32(2)
	job := &batch.Job{ObjectMeta: metav1.ObjectMeta{Name: "work"}, Spec: batch.JobSpec{Completions: &two, Parallelism: &two, Template: spec}}
	if _, err := peer.Client.BatchV1().Jobs(ns).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		for _, name := range podNames(t, ns) {
			done := []byte(`{"status":{"phase":"Succeeded"}}`)
			if _, err := peer.Client.CoreV1().Pods(ns).Patch(t.Context(), name, types.MergePatchType, done, metav1.PatchOptions{}, "status"); err != nil {
				t.Fatal(err)
			}
		}
		now, err := peer.Client.BatchV1().Jobs(ns).Get(t.Context(), "work", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if now.Status.Succeeded != 2 || now.Status.CompletionTime == nil {
			return fmt.Sprintf("job status %+v", now.Status)
		}
		return ""
	})
}
