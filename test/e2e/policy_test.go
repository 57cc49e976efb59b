package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// policed is a server that is probed, and two pods to call it from.
const policed = `
apiVersion: v1
kind: Pod
metadata: {name: db, labels: {app: db}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: ` + busyboxImage + `
    command: [nc, -ll, -p, "8080", -e, cat]
    ports: [{name: sql, containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: sql}, periodSeconds: 1, timeoutSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: ` + busyboxImage + `, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: other}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: ` + busyboxImage + `, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{port: 80, targetPort: sql}]}
`

const policies = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-to-db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: sql}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: silent}
spec: {podSelector: {matchLabels: {app: silent}}, policyTypes: [Egress]}
`

// silent tries, from its first instruction on, what it may not, and is only then
// told what it may.
const silent = `
apiVersion: v1
kind: Pod
metadata: {name: silent, labels: {app: silent}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: ` + busyboxImage + `
    command: [sh, -c, "for i in 1 2 3; do (echo rows; sleep 0.3) | nc -w 1 %s 8080 | grep rows && exit 1; done; nslookup kubernetes.default.svc.cluster.local"]
`

// TestNetworkPolicy: policies on running pods and on one that is new, while the
// agent's probes and the DNS of the node go on.
func TestNetworkPolicy(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, policed)
	db := podsReady(t, ns, "app=db", 1)[0]
	for _, name := range []string{"web", "other"} {
		podWhen(t, ns, name, "runs", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodRunning })
	}
	service, err := client.CoreV1().Services(ns).Get(t.Context(), "db", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	call := fmt.Sprintf("(echo rows; sleep 0.3) | nc -w 1 %s 80", service.Spec.ClusterIP)
	fetch := func(from string) error {
		result := runKubectl(t, "", "exec", "--namespace", ns, from, "--", "sh", "-c", call)
		if result.Err == nil && strings.TrimSpace(result.Stdout) != "rows" {
			return fmt.Errorf("%s got %q", from, result.Stdout)
		}
		return result.Err
	}
	for _, from := range []string{"web", "other"} {
		eventually(t, from+" calls db without policies", func() error { return fetch(from) })
	}
	apply(t, ns, policies)
	eventually(t, "other is refused", func() error {
		if fetch("other") == nil {
			return fmt.Errorf("other still calls db")
		}
		return nil
	})
	if err := fetch("web"); err != nil {
		t.Errorf("web may call db: %v", err)
	}
	out := shoal(t, "policy", "test", "--namespace", ns, "web", "db", "sql")
	for _, want := range []string{
		fmt.Sprintf("allowed: pod %s/web to pod %s/db, port 8080/TCP\n", ns, ns),
		fmt.Sprintf("isolated by %s/deny, %s/web-to-db\n", ns, ns), fmt.Sprintf("%s/web-to-db, rule 1: peer 1, port \"sql\"\n", ns),
	} {
		if !strings.Contains(out, want) {
			t.Errorf("policy test says:\n%s\nand not %q", out, want)
		}
	}
	for _, from := range []string{"other", "outside", "203.0.113.7"} {
		result := daemon.Command("policy", "test", "--namespace", ns, from, ns+"/db", "8080").Run(t.Context())
		if result.Err == nil || !strings.HasPrefix(result.Stdout, "denied: ") || !strings.Contains(result.Stdout, "none of its peers is the other end") {
			t.Errorf("policy test from %s: %v\n%s", from, result.Err, result.Stdout)
		}
	}
	apply(t, ns, fmt.Sprintf(silent, db.Status.PodIP))
	podWhen(t, ns, "silent", "ends", func(pod *corev1.Pod) bool {
		if pod.Status.Phase == corev1.PodFailed {
			t.Fatalf("the pod that may call nobody did, or got no answer of DNS:\n%s", kubectl(t, "logs", "--namespace", ns, "silent"))
		}
		return pod.Status.Phase == corev1.PodSucceeded
	})
	if again := podsReady(t, ns, "app=db", 1)[0]; again.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("db was restarted")
	}
	kubectl(t, "delete", "networkpolicy", "deny", "web-to-db", "--namespace", ns)
	eventually(t, "other calls db again", func() error { return fetch("other") })
}
