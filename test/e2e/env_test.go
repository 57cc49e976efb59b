package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"shoal/test/harness"
)

// settleWithin bounds every wait for the cluster to reach a state. Nothing is
// asserted about speed here: that is what test/bench prints.
const settleWithin = 4 * time.Minute

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), settleWithin, errors.New("it did not happen in time"))
	defer cancel()
	if err := harness.Until(ctx, 50*time.Millisecond, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// kubectl runs the stock kubectl and returns what it prints.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return kubectlInput(t, "", args...)
}

// kubectlInput is kubectl with something on its standard input.
func kubectlInput(t *testing.T, input string, args ...string) string {
	t.Helper()
	result := runKubectl(t, input, args...)
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	return result.Stdout
}

// kubectlFails runs kubectl, expects it to fail, and returns its error text.
func kubectlFails(t *testing.T, input string, args ...string) string {
	t.Helper()
	result := runKubectl(t, input, args...)
	if result.Err == nil {
		t.Fatalf("kubectl %s: it succeeded and should not have: %s", strings.Join(args, " "), result.Stdout)
	}
	return result.Stderr
}

func runKubectl(t *testing.T, input string, args ...string) harness.Result {
	t.Helper()
	return stockClient(t, "kubectl", input, args...)
}

// stockClient runs a client program built by `make tools`.
func stockClient(t *testing.T, name, input string, args ...string) harness.Result {
	t.Helper()
	path, err := harness.Binary(".cache/bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	command := harness.Command{
		Argv: append([]string{path}, args...),
		Env:  []string{"KUBECONFIG=" + daemon.Kubeconfig(), "HOME=" + world.Dir, "KUBE_EDITOR="},
	}
	if input != "" {
		command.Stdin = strings.NewReader(input)
	}
	return command.Run(t.Context())
}

// shoal runs a client command of shoal and returns what it prints.
func shoal(t *testing.T, args ...string) string {
	t.Helper()
	result := daemon.Command(args...).Run(t.Context())
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	return result.Stdout
}

// apply creates what a manifest says in a namespace.
func apply(t *testing.T, namespace, manifest string) {
	t.Helper()
	kubectlInput(t, manifest, "apply", "--namespace", namespace, "--filename", "-")
}

// newNamespace makes a namespace, and when the test ends deletes it and waits
// until its pods are gone. The namespace itself follows seconds later, as
// upstream's controller looks again only then.
func newNamespace(t *testing.T) string {
	t.Helper()
	name := "t-" + strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeNamespace(t, name) })
	// Pods are refused until the namespace has its service account.
	eventually(t, "default service account", func() error {
		_, err := client.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return name
}

func removeNamespace(t *testing.T, name string) {
	// The test's own context has ended by now.
	ctx, cancel := context.WithTimeoutCause(context.Background(), settleWithin, errors.New("it was not gone in time"))
	defer cancel()
	now := int64(1)
	pods := client.CoreV1().Pods(name)
	err := pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	err = errors.Join(err, client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}))
	err = errors.Join(err, harness.Until(ctx, 50*time.Millisecond, func() error {
		left, err := client.CoreV1().Pods(name).List(ctx, metav1.ListOptions{})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(left.Items))
		}
		return err
	}))
	if err != nil {
		t.Errorf("remove namespace %s: %v", name, err)
	}
}

// podsReady waits until exactly n pods of a selector exist and are ready.
func podsReady(t *testing.T, namespace, selector string, n int) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	eventually(t, fmt.Sprintf("%d ready pods of %s", n, selector), func() error {
		list, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		pods = list.Items
		if len(pods) != n {
			return fmt.Errorf("%d pods", len(pods))
		}
		for _, pod := range pods {
			if !ready(&pod) {
				return fmt.Errorf("pod %s is %s: %s", pod.Name, pod.Status.Phase, describeStates(&pod))
			}
		}
		return nil
	})
	return pods
}

func ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil
		}
	}
	return false
}

func describeStates(pod *corev1.Pod) string {
	var states []string
	for _, status := range pod.Status.ContainerStatuses {
		switch {
		case status.State.Waiting != nil:
			states = append(states, status.Name+" waits: "+status.State.Waiting.Reason+": "+status.State.Waiting.Message)
		case status.State.Terminated != nil:
			states = append(states, status.Name+" ended: "+status.State.Terminated.Reason)
		default:
			states = append(states, status.Name+" runs")
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Status != corev1.ConditionTrue {
			states = append(states, fmt.Sprintf("%s: %s %s", condition.Type, condition.Reason, condition.Message))
		}
	}
	return strings.Join(states, "; ")
}

// pod waits until a pod's state satisfies a condition and returns it.
func podWhen(t *testing.T, namespace, name, what string, condition func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	eventually(t, "pod "+name+" "+what, func() error {
		var err error
		pod, err = client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !condition(pod) {
			return fmt.Errorf("it is %s: %s", pod.Status.Phase, describeStates(pod))
		}
		return nil
	})
	return pod
}

// restartDaemon ends the shared daemon in the given way and starts it again.
func restartDaemon(t *testing.T, end func()) {
	t.Helper()
	end()
	if err := daemon.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// mentions fails the test unless the text holds every one of the words.
func mentions(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is missing in:\n%s", word, text)
		}
	}
}

// afterTest runs kubectl when the test's own context has ended.
func afterTest(args ...string) harness.Result {
	path, err := harness.Binary(".cache/bin/kubectl")
	if err != nil {
		return harness.Result{Err: err}
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleWithin)
	defer cancel()
	return harness.Command{Argv: append([]string{path, "--kubeconfig", daemon.Kubeconfig()}, args...)}.Run(ctx)
}

// tokenKubeconfig writes a kubeconfig for a bearer token.
func tokenKubeconfig(t *testing.T, token string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*file, path); err != nil {
		t.Fatal(err)
	}
	return path
}
