package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// web is a Deployment of an echo server: it answers a line with the line.
const web = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: echo
        image: ` + busyboxImage + `
        command: [nc, -ll, -p, "9000", -e, cat]
        ports: [{containerPort: 9000}]
`

func webDeployment(replicas int) string { return fmt.Sprintf(web, replicas) }

// TestKubectlWorkload walks a Deployment through the life kubectl gives it.
func TestKubectlWorkload(t *testing.T) {
	ns := newNamespace(t)
	in := func(args ...string) []string { return append([]string{"--namespace", ns}, args...) }

	mentions(t, kubectl(t, in("create", "deployment", "made", "--image", busyboxImage, "--replicas", "0")...), "deployment.apps/made created")

	diff := runKubectl(t, webDeployment(1), in("diff", "--filename", "-")...)
	if diff.Code != 1 {
		t.Errorf("diff of something new ends with %d, not 1: %s", diff.Code, diff.Stderr)
	}
	mentions(t, diff.Stdout, "+kind: Deployment")
	apply(t, ns, webDeployment(1))
	if diff := runKubectl(t, webDeployment(1), in("diff", "--filename", "-")...); diff.Code != 0 {
		t.Errorf("diff of what was just applied ends with %d:\n%s%s", diff.Code, diff.Stdout, diff.Stderr)
	}

	mentions(t, kubectl(t, in("rollout", "status", "deployment/web", "--timeout", "240s")...), "successfully rolled out")
	mentions(t, kubectl(t, in("get", "deployments")...), "NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "1/1")
	mentions(t, kubectl(t, in("get", "pods", "--output", "wide")...), "NODE", "Running", daemon.Name)
	mentions(t, kubectl(t, in("describe", "deployment", "web")...), "Replicas:", "1 desired", "ScalingReplicaSet")
	mentions(t, kubectl(t, in("describe", "pods", "--selector", "app=web")...), "Scheduled", "Started", "Ready", "QoS Class")

	kubectl(t, in("scale", "deployment", "web", "--replicas", "3")...)
	podsReady(t, ns, "app=web", 3)

	kubectl(t, in("label", "deployment", "web", "tier=front")...)
	kubectl(t, in("patch", "deployment", "web", "--type", "merge", "--patch", `{"metadata":{"annotations":{"note":"patched"}}}`)...)
	kubectl(t, in("patch", "deployment", "web", "--patch", `{"spec":{"template":{"spec":{"containers":[{"name":"echo","env":[{"name":"A","value":"b"}]}]}}}}`)...)
	deployment, err := client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if deployment.Labels["tier"] != "front" || deployment.Annotations["note"] != "patched" || len(deployment.Spec.Template.Spec.Containers[0].Env) != 1 {
		t.Errorf("label and patch were not stored: %+v", deployment.ObjectMeta)
	}

	editor := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nsed -i 's/replicas: 3/replicas: 2/' \"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("EDITOR", editor)
	mentions(t, kubectl(t, in("edit", "deployment", "web")...), "deployment.apps/web edited")
	kubectl(t, in("rollout", "status", "deployment/web", "--timeout", "240s")...)
	podsReady(t, ns, "app=web", 2)

	mentions(t, kubectl(t, in("expose", "deployment", "web", "--port", "9000")...), "service/web exposed")
	kubectl(t, in("wait", "--for", "condition=Available", "deployment/web", "--timeout", "240s")...)
	kubectl(t, in("delete", "deployment", "web", "--wait")...)
	podsReady(t, ns, "app=web", 0)
}

func TestKubectlLogsAndExec(t *testing.T) {
	ns := newNamespace(t)
	kubectl(t, "run", "talker", "--namespace", ns, "--image", busyboxImage, "--restart", "Never",
		"--command", "--", "sh", "-c", "echo first; echo second >&2; trap 'exit 0' TERM; while :; do sleep 0.1; done")
	kubectl(t, "wait", "--namespace", ns, "--for", "condition=Ready", "pod/talker", "--timeout", "240s")
	eventually(t, "both log lines", func() error {
		logs := kubectl(t, "logs", "--namespace", ns, "talker")
		if !strings.Contains(logs, "first\n") || !strings.Contains(logs, "second\n") {
			return fmt.Errorf("logs are %q", logs)
		}
		return nil
	})
	if got := kubectl(t, "logs", "--namespace", ns, "talker", "--tail", "1"); strings.Count(got, "\n") != 1 {
		t.Errorf("--tail 1 printed %q", got)
	}
	if got := kubectl(t, "exec", "--namespace", ns, "talker", "--", "sh", "-c", "echo out; echo err >&2"); got != "out\n" {
		t.Errorf("exec printed %q", got)
	}
	if got := kubectlInput(t, "through stdin", "exec", "--namespace", ns, "--stdin", "talker", "--", "cat"); got != "through stdin" {
		t.Errorf("exec with stdin printed %q", got)
	}
	result := runKubectl(t, "", "exec", "--namespace", ns, "talker", "--", "sh", "-c", "exit 7")
	if result.Code != 7 {
		t.Errorf("exec of a command that ends with 7 ends with %d: %s", result.Code, result.Stderr)
	}
}

func TestKubectlDiscovery(t *testing.T) {
	mentions(t, kubectl(t, "version"), "Client Version: v1.37", "Server Version: v1.37")
	mentions(t, kubectl(t, "api-resources"), "deployments", "apps/v1", "endpointslices", "customresourcedefinitions", "networkpolicies", "poddisruptionbudgets")
	mentions(t, kubectl(t, "explain", "deployment.spec.strategy"), "rollingUpdate", "DESCRIPTION")
	mentions(t, kubectl(t, "auth", "can-i", "create", "deployments"), "yes")
	result := runKubectl(t, "", "auth", "can-i", "create", "deployments", "--as", "nobody")
	if result.Code != 1 || !strings.HasPrefix(result.Stdout, "no") {
		t.Errorf("a stranger may create deployments: %s%s", result.Stdout, result.Stderr)
	}
	mentions(t, kubectl(t, "get", "nodes"), "NAME", "STATUS", "ROLES", "AGE", "VERSION", daemon.Name, "Ready", "v1.37")
	mentions(t, kubectl(t, "get", "service", "kubernetes", "--output", "jsonpath={.spec.clusterIP}"), "10.")
	mentions(t, kubectl(t, "get", "namespaces"), "default", "kube-system", "kube-public", "kube-node-lease")
	mentions(t, kubectl(t, "cluster-info"), "is running at")
}

// TestKubectlColumns compares what shoal's own CLI prints with kubectl.
func TestKubectlColumns(t *testing.T) {
	for _, args := range [][]string{
		{"get", "nodes", "--output", "name"},
		{"get", "namespace", "default", "--output", "json"},
		{"get", "service", "kubernetes", "--output", "yaml"},
		{"get", "service", "kubernetes", "--output", "jsonpath={.spec.ports[0].port}"},
		{"get", "clusterroles", "--output", "name"},
	} {
		if ours, theirs := shoal(t, args...), kubectl(t, args...); ours != theirs {
			t.Errorf("%s differ:\nshoal:\n%s\nkubectl:\n%s", strings.Join(args, " "), ours, theirs)
		}
	}
	header := func(text string) string {
		line, _, _ := strings.Cut(text, "\n")
		return strings.Join(strings.Fields(line), " ")
	}
	for _, kind := range []string{"nodes", "services", "events", "namespaces"} {
		for _, format := range [][]string{nil, {"--output", "wide"}, {"--all-namespaces"}} {
			args := append([]string{"get", kind, "--namespace", "default"}, format...)
			if ours, theirs := header(shoal(t, args...)), header(kubectl(t, args...)); ours != theirs {
				t.Errorf("columns of %v differ:\nshoal   %s\nkubectl %s", args, ours, theirs)
			}
		}
	}
}

func TestHelm(t *testing.T) {
	ns := newNamespace(t)
	values := []string{"--namespace", ns, "--set", "image=" + busyboxImage, "--wait", "--timeout", "90s"}
	run := func(args ...string) string {
		t.Helper()
		result := stockClient(t, "helm", "", args...)
		if result.Err != nil {
			t.Fatal(result.Err)
		}
		return result.Stdout
	}
	mentions(t, run(append([]string{"install", "small", "testdata/chart"}, values...)...), "STATUS: deployed")
	podsReady(t, ns, "app=small", 1)
	run(append([]string{"upgrade", "small", "testdata/chart", "--set", "replicas=2"}, values...)...)
	podsReady(t, ns, "app=small", 2)
	mentions(t, run("list", "--namespace", ns), "small", "deployed")
	run("uninstall", "small", "--namespace", ns, "--wait")
	podsReady(t, ns, "app=small", 0)
}
