package e2e

import (
	"errors"
	"fmt"
	"net"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/test/harness"
)

// hostPorts is an echo server that is called at ports of the host.
const hostPorts = `
apiVersion: v1
kind: Pod
metadata: {name: ported}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: echo
    image: ` + echoImage + `
    ports:
    - {containerPort: 9000, hostPort: 8085}
    - {containerPort: 9000, hostPort: 8085, protocol: UDP}
    - {containerPort: 9000, hostPort: 8086, hostIP: 127.0.0.1}
`

func TestHostPort(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, hostPorts)
	answers := func(network, addr string) {
		t.Helper()
		eventually(t, "an answer from "+network+" "+addr, func() error {
			name, err := ask(t.Context(), network, addr)
			if err == nil && name != "ported" {
				err = fmt.Errorf("%s answered", name)
			}
			return err
		})
	}
	for _, network := range []string{"tcp", "udp"} {
		answers(network, net.JoinHostPort(harness.NodeAddr, "8085"))
		answers(network, "127.0.0.1:8085")
	}
	answers("tcp", "127.0.0.1:8086")
	eventually(t, "an answer to another machine", func() error {
		_, err := askFrom(t.Context(), world.Outside(), harness.NodeAddr, "8085")
		return err
	})
	if name, err := ask(t.Context(), "tcp", net.JoinHostPort(harness.NodeAddr, "8086")); err == nil {
		t.Errorf("%s answered at an address that is not its hostIP", name)
	}
	kubectl(t, "delete", "pod", "ported", "--namespace", ns)
	eventually(t, "nobody answers when the pod is gone", func() error {
		if name, err := ask(t.Context(), "tcp", "127.0.0.1:8085"); err == nil {
			return fmt.Errorf("%s answered", name)
		}
		return nil
	})
}

// TestSessionAffinity: each client keeps to one pod, and they share the pods.
func TestSessionAffinity(t *testing.T) {
	ns := newNamespace(t)
	service := startEcho(t, ns, 4)
	kubectl(t, "patch", "service", "echo", "--namespace", ns, "--patch", `{"spec":{"sessionAffinity":"ClientIP","externalIPs":["203.0.113.50"]}}`)
	addr := clusterAddr(service)
	eventually(t, "one pod answers this host", func() error {
		first, err := ask(t.Context(), "tcp", addr)
		for range 20 {
			name, next := ask(t.Context(), "tcp", addr)
			if err = errors.Join(err, next); err == nil && name != first {
				return fmt.Errorf("%s and %s answered", first, name)
			}
		}
		return err
	})
	first, err := ask(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := ask(t.Context(), "tcp", "203.0.113.50:80"); err != nil || name != first {
		t.Errorf("at the external address %s answered, not %s: %v", name, first, err)
	}
	kubectl(t, "delete", "pod", first, "--namespace", ns)
	eventually(t, "another pod answers", func() error {
		name, err := ask(t.Context(), "tcp", addr)
		if err == nil && name == first {
			err = errors.New("the pod that was deleted still answers")
		}
		return err
	})
}

// own is a service without a selector, whose endpoints its user writes: as
// Endpoints, which are mirrored, and as a slice.
const own = `
apiVersion: v1
kind: Service
metadata: {name: mirrored}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: mirrored}
subsets: [{addresses: [{ip: %[1]s}], ports: [{port: 9000}]}]
---
apiVersion: v1
kind: Service
metadata: {name: sliced}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: sliced-1, labels: {kubernetes.io/service-name: sliced}}
addressType: IPv4
ports: [{name: "", port: 9000, protocol: TCP}]
endpoints: [{addresses: [%[1]s]}]
`

func TestServiceWithoutSelector(t *testing.T) {
	ns := newNamespace(t)
	startEcho(t, ns, 1)
	pod := podsReady(t, ns, "app=echo", 1)[0]
	apply(t, ns, fmt.Sprintf(own, pod.Status.PodIP))
	for _, name := range []string{"mirrored", "sliced"} {
		service, err := client.CoreV1().Services(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		allAnswer(t, "tcp", clusterAddr(service), []corev1.Pod{pod})
	}
}

// slowToGo is an echo server that serves on after it was deleted, for far longer
// than the test takes, which then gives it a second.
const slowToGo = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: slow}}
spec:
  terminationGracePeriodSeconds: 600
  containers:
  - name: echo
    image: ` + echoImage + `
    ports: [{containerPort: 9000}]
    lifecycle: {preStop: {sleep: {seconds: 590}}}
`

// TestTerminatingPods: a pod that ends gets no new connection while another is
// ready, keeps the open ones, and serves when there is no other (KEP-1669).
func TestTerminatingPods(t *testing.T) {
	ns := newNamespace(t)
	defer func() { kubectl(t, "delete", "pods", "--all", "--namespace", ns, "--grace-period", "1") }()
	apply(t, ns, fmt.Sprintf(slowToGo, "first")+"---"+fmt.Sprintf(slowToGo, "second")+`---
apiVersion: v1
kind: Service
metadata: {name: slow}
spec:
  selector: {app: slow}
  ports: [{port: 80, targetPort: 9000}]
`)
	pods := podsReady(t, ns, "app=slow", 2)
	service, err := client.CoreV1().Services(ns).Get(t.Context(), "slow", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	addr := clusterAddr(service)
	allAnswer(t, "tcp", addr, pods)
	var open net.Conn
	eventually(t, "a connection to the first pod", func() error {
		conn, err := net.DialTimeout("tcp", addr, answerWithin)
		if err != nil {
			return err
		}
		name, err := say(conn, "hello")
		if err == nil && name != "first" {
			err = fmt.Errorf("%s answered", name)
		}
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		open = conn
		return nil
	})
	defer open.Close()
	kubectl(t, "delete", "pod", "first", "--namespace", ns, "--wait=false")
	onlyFrom := func(want string) {
		t.Helper()
		eventually(t, "new connections go to "+want, func() error {
			for range 20 {
				if name, err := ask(t.Context(), "tcp", addr); err != nil || name != want {
					return fmt.Errorf("%s answered, %w", name, err)
				}
			}
			return nil
		})
	}
	onlyFrom("second")
	if name, err := say(open, "still"); err != nil || name != "first" {
		t.Errorf("an open connection was answered by %s, %v", name, err)
	}
	kubectl(t, "delete", "pod", "second", "--namespace", ns, "--wait=false")
	allAnswer(t, "tcp", addr, pods) // both end, and none is left that does not
	if name, err := say(open, "still"); err != nil || name != "first" {
		t.Errorf("an open connection was answered by %s, %v", name, err)
	}
}
