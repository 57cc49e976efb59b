package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// badService has a type and ports to fill in, or an address.
func badService(name, spec string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {selector: {app: nobody}, %s}\n", name, spec)
}

// takenPort listens at a node port of this machine that nobody has, as a program
// of the host's does.
func takenPort(t *testing.T) int {
	t.Helper()
	for port := 32767; port >= 32000; port-- {
		ln, err := net.Listen("tcp4", fmt.Sprint(":", port))
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		return port
	}
	t.Fatal("every node port is taken")
	return 0
}

// TestBadServices: what cannot be is refused with the reason, and what only does
// not work here is said in an Event.
func TestBadServices(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, badService("first", "type: NodePort, ports: [{port: 80}]"))
	first, err := client.CoreV1().Services(ns).Get(t.Context(), "first", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ spec, says string }{
		"an address already taken":    {"clusterIP: " + first.Spec.ClusterIP + ", ports: [{port: 80}]", "already allocated"},
		"an address out of range":     {"clusterIP: 192.0.2.1, ports: [{port: 80}]", "not in the valid range"},
		"a node port out of range":    {"type: NodePort, ports: [{port: 80, nodePort: 99}]", "not in the valid range"},
		"a node port already taken":   {fmt.Sprintf("type: NodePort, ports: [{port: 80, nodePort: %d}]", first.Spec.Ports[0].NodePort), "already allocated"},
		"a port that is none":         {"ports: [{port: 70000}]", "between 1 and 65535"},
		"two ports without a name":    {"ports: [{port: 80}, {port: 81}]", "name"},
		"a source range that is none": {"type: LoadBalancer, loadBalancerSourceRanges: [nowhere], ports: [{port: 80}]", "nowhere"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			mentions(t, kubectlFails(t, badService("second", c.spec), "create", "--namespace", ns, "--filename", "-"), c.says)
		})
	}
	if _, err := client.CoreV1().Services(ns).Get(t.Context(), "second", metav1.GetOptions{}); err == nil {
		t.Error("a refused service was stored")
	}
	t.Run("a_node_port_of_a_program", func(t *testing.T) {
		port := takenPort(t)
		apply(t, ns, badService("held", fmt.Sprintf("type: NodePort, ports: [{port: 80, nodePort: %d}]", port)))
		eventually(t, "an Event names the port", func() error {
			out := kubectl(t, "get", "events", "--namespace", ns, "--field-selector", "involvedObject.name=held,reason=PortInUse", "--output", "jsonpath={.items[*].message}")
			if !strings.Contains(out, fmt.Sprint("node port ", port)) {
				return fmt.Errorf("events say %q", out)
			}
			return nil
		})
	})
	t.Run("a_selector_that_matches_nothing", func(t *testing.T) { refused(t, ns, "first") })
	t.Run("endpoints_of_another_family", func(t *testing.T) {
		apply(t, ns, `
apiVersion: v1
kind: Service
metadata: {name: mixed}
spec: {ipFamilies: [IPv4], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: mixed-1, labels: {kubernetes.io/service-name: mixed}}
addressType: IPv6
ports: [{name: "", port: 9000, protocol: TCP}]
endpoints: [{addresses: ["2001:db8::1"]}]
`)
		refused(t, ns, "mixed")
	})
}

// refused waits until a call of a service is refused at once.
func refused(t *testing.T, ns, name string) {
	t.Helper()
	service, err := client.CoreV1().Services(ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, name+" refuses calls", func() error {
		if _, err := ask(t.Context(), "tcp", clusterAddr(service)); !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("calling it gives %w", err)
		}
		return nil
	})
}
