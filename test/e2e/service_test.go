package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/test/harness"
)

// answerWithin bounds one question to the echo server.
const answerWithin = 5 * time.Second

// echo is a Deployment and a NodePort service of the echo server, which answers
// a line or a datagram with its pod's name and the text.
const echo = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: %d
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: echo
        image: ` + echoImage + `
        ports: [{containerPort: 9000}, {containerPort: 9000, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: NodePort
  selector: {app: echo}
  ports:
  - {name: tcp, port: 80, targetPort: 9000}
  - {name: udp, port: 80, targetPort: 9000, protocol: UDP}
`

// startEcho starts the echo service and waits until all its backends are in.
func startEcho(t *testing.T, ns string, replicas int) *corev1.Service {
	t.Helper()
	apply(t, ns, fmt.Sprintf(echo, replicas))
	pods := podsReady(t, ns, "app=echo", replicas)
	service, err := client.CoreV1().Services(ns).Get(t.Context(), "echo", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp", "udp"} {
		allAnswer(t, network, clusterAddr(service), pods)
	}
	return service
}

func clusterAddr(service *corev1.Service) string {
	return net.JoinHostPort(service.Spec.ClusterIP, "80")
}

func nodePort(service *corev1.Service, network string) string {
	for _, port := range service.Spec.Ports {
		if port.Name == network {
			return strconv.Itoa(int(port.NodePort))
		}
	}
	return ""
}

// ask sends one line from this host and returns the answering pod's name.
func ask(ctx context.Context, network, addr string) (string, error) {
	conn, err := (&net.Dialer{Timeout: answerWithin}).DialContext(ctx, network, addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return say(conn, "hello")
}

// say sends a line on a connection and returns the answering pod's name.
func say(conn net.Conn, word string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, word); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	return podOf(answer, word)
}

func podOf(answer, word string) (string, error) {
	fields := strings.Fields(answer)
	if len(fields) != 2 || fields[1] != word {
		return "", fmt.Errorf("the answer to %q is %q", word, answer)
	}
	return fields[0], nil
}

// allAnswer asks an address until exactly the given pods have answered.
func allAnswer(t *testing.T, network, addr string, pods []corev1.Pod) {
	t.Helper()
	waiting := map[string]bool{}
	for _, pod := range pods {
		waiting[pod.Name] = true
	}
	eventually(t, "an answer from every pod behind "+network+" "+addr, func() error {
		// Backends are picked at random, so all of many are seen only after
		// many questions.
		for range 10 * len(pods) {
			name, err := ask(t.Context(), network, addr)
			if err != nil {
				return err
			}
			if delete(waiting, name); len(waiting) == 0 {
				return nil
			}
		}
		return fmt.Errorf("not yet: %v", waiting)
	})
}

// askFrom asks through busybox's nc run by the given command line prefix.
func askFrom(ctx context.Context, prefix []string, host, port string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*answerWithin)
	defer cancel()
	argv := append(slices.Clone(prefix), "busybox", "sh", "-c", fmt.Sprintf("(echo hello; sleep 0.3) | busybox nc -w 5 %s %s", host, port))
	result := harness.Command{Argv: argv}.Run(ctx)
	if result.Stdout == "" {
		return "", fmt.Errorf("no answer from %s:%s: %w", host, port, errors.Join(result.Err, errors.New(result.Stderr)))
	}
	return podOf(result.Stdout, "hello")
}

func TestServicePaths(t *testing.T) {
	ns := newNamespace(t)
	service := startEcho(t, ns, 3)
	pods := podsReady(t, ns, "app=echo", 3)

	for _, pod := range pods {
		if name, err := ask(t.Context(), "tcp", net.JoinHostPort(pod.Status.PodIP, "9000")); err != nil || name != pod.Name {
			t.Errorf("host to pod %s directly: %s, %v", pod.Name, name, err)
		}
	}
	for _, network := range []string{"tcp", "udp"} {
		allAnswer(t, network, net.JoinHostPort(harness.NodeAddr, nodePort(service, network)), pods)
		allAnswer(t, network, net.JoinHostPort("127.0.0.1", nodePort(service, network)), pods)
	}
	kubectl(t, "run", "asker", "--namespace", ns, "--image", busyboxImage, "--command", "--", "sleep", "3600")
	kubectl(t, "wait", "--namespace", ns, "--for", "condition=Ready", "pod/asker", "--timeout", "240s")
	kubectlPath, err := harness.Binary(".cache/bin/kubectl")
	if err != nil {
		t.Fatal(err)
	}
	fromPod := []string{kubectlPath, "--kubeconfig", daemon.Kubeconfig(), "exec", "--namespace", ns, "asker", "--"}
	for name, path := range map[string]struct {
		prefix     []string
		host, port string
	}{
		"pod to pod":                   {fromPod, pods[0].Status.PodIP, "9000"},
		"pod to cluster address":       {fromPod, service.Spec.ClusterIP, "80"},
		"pod to node port":             {fromPod, harness.NodeAddr, nodePort(service, "tcp")},
		"other machine to node port":   {world.Outside(), harness.NodeAddr, nodePort(service, "tcp")},
		"pod to itself through itself": {fromPod, service.Spec.ClusterIP, "80"},
	} {
		t.Run(name, func(t *testing.T) {
			eventually(t, "answer", func() error {
				_, err := askFrom(t.Context(), path.prefix, path.host, path.port)
				return err
			})
		})
	}
	t.Run("other machine to UDP node port", func(t *testing.T) {
		eventually(t, "answer", func() error {
			argv := world.Outside(echoBinary, "-ask", net.JoinHostPort(harness.NodeAddr, nodePort(service, "udp")))
			result := harness.Command{Argv: argv}.Run(t.Context())
			if result.Err != nil {
				return result.Err
			}
			_, err := podOf(result.Stdout, "hello")
			return err
		})
	})
	t.Run("scaled down", func(t *testing.T) {
		kubectl(t, "scale", "deployment", "echo", "--namespace", ns, "--replicas", "1")
		left := podsReady(t, ns, "app=echo", 1)[0].Name
		eventually(t, "only the pod that is left answers", func() error {
			for range 10 {
				for _, network := range []string{"tcp", "udp"} {
					if name, err := ask(t.Context(), network, clusterAddr(service)); err != nil || name != left {
						return fmt.Errorf("%s: %s answered, %w", network, name, err)
					}
				}
			}
			return nil
		})
	})
	t.Run("no backend", func(t *testing.T) {
		kubectl(t, "scale", "deployment", "echo", "--namespace", ns, "--replicas", "0")
		eventually(t, "connections are refused", func() error {
			if name, err := ask(t.Context(), "tcp", clusterAddr(service)); err == nil {
				return fmt.Errorf("%s answered", name)
			}
			return nil
		})
	})
}

// TestNoFirewallRules proves that services need no rule in the host's firewall.
func TestNoFirewallRules(t *testing.T) {
	ns := newNamespace(t)
	startEcho(t, ns, 2)
	// The world's network namespace is fresh, so any rule is shoal's, but for those
	// that were planted there.
	for _, argv := range [][]string{{"nft", "list", "ruleset"}, {"iptables-nft-save"}, {"iptables-legacy-save"}, {"ip6tables-legacy-save"}} {
		if _, err := exec.LookPath(argv[0]); err != nil {
			t.Errorf("%s is missing: %v", argv[0], err)
			continue
		}
		result := harness.Command{Argv: argv}.Run(t.Context())
		if result.Err != nil {
			t.Error(result.Err)
		}
		for line := range strings.Lines(result.Stdout) {
			if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, "table") && !strings.Contains(line, "planted") {
				t.Errorf("%s shows %q", argv[0], line)
			}
		}
	}
}
