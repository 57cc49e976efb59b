package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/test/harness"
)

var errStillAnswers = errors.New("it still answers")

// dual is the service of echo's pods for both families, and a pod that knows its
// own addresses.
const dual = `
apiVersion: v1
kind: Service
metadata: {name: dual}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: echo}
  ports:
  - {name: tcp, port: 80, targetPort: 9000}
  - {name: udp, port: 80, targetPort: 9000, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: ` + busyboxImage + `
    command: [sleep, "100000"]
    env: [{name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]
`

// TestDualStack: a pod has an address of each family, and a service that asks for
// both is called by both, from everywhere.
func TestDualStack(t *testing.T) {
	ns := newNamespace(t)
	single := startEcho(t, ns, 2)
	if len(single.Spec.ClusterIPs) != 1 || *single.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Errorf("a service that asks for nothing has %v, %s", single.Spec.ClusterIPs, *single.Spec.IPFamilyPolicy)
	}
	apply(t, ns, dual)
	pods := podsReady(t, ns, "app=echo", 2)
	asker := podWhen(t, ns, "asker", "runs", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodRunning })
	service, err := client.CoreV1().Services(ns).Get(t.Context(), "dual", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}

	t.Run("node", func(t *testing.T) {
		node, err := client.CoreV1().Nodes().Get(t.Context(), asker.Spec.NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(node.Spec.PodCIDRs) != 2 {
			t.Fatalf("ranges are %v", node.Spec.PodCIDRs)
		}
		six := netip.MustParsePrefix(node.Spec.PodCIDRs[1])
		for _, pod := range append(pods, *asker) {
			if len(pod.Status.PodIPs) != 2 || !six.Contains(netip.MustParseAddr(pod.Status.PodIPs[1].IP)) {
				t.Errorf("pod %s has %v, want one of %s", pod.Name, pod.Status.PodIPs, six)
			}
		}
		found := false
		for _, a := range node.Status.Addresses {
			found = found || a.Type == corev1.NodeInternalIP && a.Address == harness.NodeAddr6
		}
		if !found {
			t.Errorf("addresses are %v", node.Status.Addresses)
		}
	})
	t.Run("endpoint slices", func(t *testing.T) {
		slices, err := client.DiscoveryV1().EndpointSlices(ns).List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=dual"})
		if err != nil {
			t.Fatal(err)
		}
		families := map[discoveryv1.AddressType]int{}
		for _, s := range slices.Items {
			families[s.AddressType] += len(s.Endpoints)
		}
		if families[discoveryv1.AddressTypeIPv4] != 2 || families[discoveryv1.AddressTypeIPv6] != 2 {
			t.Errorf("endpoints are %v", families)
		}
	})
	t.Run("inside the pod", func(t *testing.T) {
		both := asker.Status.PodIPs[0].IP + "," + asker.Status.PodIPs[1].IP
		if got := kubectl(t, "exec", "--namespace", ns, "asker", "--", "sh", "-c", "echo $IPS"); strings.TrimSpace(got) != both {
			t.Errorf("status.podIPs is %q, want %q", got, both)
		}
		names := kubectl(t, "exec", "--namespace", ns, "asker", "--", "cat", "/etc/hosts")
		for _, ip := range asker.Status.PodIPs {
			if !strings.Contains(names, ip.IP+"\tasker\n") {
				t.Errorf("/etc/hosts lacks %s:\n%s", ip.IP, names)
			}
		}
		eventually(t, "the service's name by both families", func() error {
			return resolves(t, ns, "asker", "dual."+ns+".svc.cluster.local", service.Spec.ClusterIPs...)
		})
	})
	for i, ip := range service.Spec.ClusterIPs {
		node := []string{harness.NodeAddr, harness.NodeAddr6}[i]
		for _, network := range []string{"tcp", "udp"} {
			allAnswer(t, network, net.JoinHostPort(ip, "80"), pods)
			allAnswer(t, network, net.JoinHostPort(node, nodePort(service, network)), pods)
		}
		eventually(t, "the other machine by "+node, func() error {
			argv := world.Outside(echoBinary, "-ask", net.JoinHostPort(node, nodePort(service, "udp")))
			result := harness.Command{Argv: argv}.Run(t.Context())
			if result.Err != nil {
				return result.Err
			}
			_, err := podOf(result.Stdout, "hello")
			return err
		})
	}
	for _, pod := range pods {
		if name, err := ask(t.Context(), "tcp", net.JoinHostPort(pod.Status.PodIPs[1].IP, "9000")); err != nil || name != pod.Name {
			t.Errorf("host to pod %s by IPv6: %s, %v", pod.Name, name, err)
		}
	}
	t.Run("from a pod", func(t *testing.T) {
		for name, to := range map[string]string{
			"pod": pods[0].Status.PodIPs[1].IP, "the host": harness.NodeAddr6, "the world outside": harness.OutsideAddr6,
		} {
			eventually(t, "an answer of "+name, func() error {
				return runKubectl(t, "", "exec", "--namespace", ns, "asker", "--", "ping", "-6", "-c", "1", "-W", "2", to).Err
			})
		}
	})
	t.Run("one family", func(t *testing.T) {
		kubectl(t, "patch", "service", "dual", "--namespace", ns, "--patch", `{"spec": {"ipFamilyPolicy": "SingleStack"}}`)
		eventually(t, "the second address is gone", func() error {
			_, err := ask(t.Context(), "tcp", net.JoinHostPort(service.Spec.ClusterIPs[1], "80"))
			if err == nil {
				return errStillAnswers
			}
			return nil
		})
		allAnswer(t, "tcp", net.JoinHostPort(service.Spec.ClusterIPs[0], "80"), pods)
	})
}

// TestIPv6Later: a host that had no IPv6, as one of an earlier release, gets it at
// its next start, and loses it again. Pods keep what they were made with.
func TestIPv6Later(t *testing.T) {
	ns := newNamespace(t)
	restart := func(extra ...string) {
		t.Helper()
		daemon.Terminate()
		<-daemon.Exited()
		daemon.Extra = extra
		if err := daemon.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	defer func() { daemon.Extra = nil }()
	run := func(name string, addresses int) {
		t.Helper()
		kubectl(t, "run", name, "--namespace", ns, "--image", busyboxImage, "--command", "--", "sleep", "3600")
		pod := podWhen(t, ns, name, "runs", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodRunning })
		if len(pod.Status.PodIPs) != addresses {
			t.Errorf("pod %s has %v, want %d addresses", name, pod.Status.PodIPs, addresses)
		}
	}
	ranges := func(n int) {
		t.Helper()
		eventually(t, "the node's ranges", func() error {
			node, err := client.CoreV1().Nodes().Get(t.Context(), daemon.Name, metav1.GetOptions{})
			if err == nil && len(node.Spec.PodCIDRs) != n {
				err = fmt.Errorf("%d wanted, there are %v", n, node.Spec.PodCIDRs)
			}
			return err
		})
	}
	ping := func(from, to string) {
		t.Helper()
		eventually(t, from+" reaches "+to, func() error {
			pod, err := client.CoreV1().Pods(ns).Get(t.Context(), to, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, ip := range pod.Status.PodIPs {
				if err := runKubectl(t, "", "exec", "--namespace", ns, from, "--", "ping", "-c", "1", "-W", "2", ip.IP).Err; err != nil {
					return err
				}
			}
			return nil
		})
	}
	run("before", 2)
	node, err := client.CoreV1().Nodes().Get(t.Context(), daemon.Name, metav1.GetOptions{})
	if err != nil || len(node.Spec.PodCIDRs) != 2 {
		t.Fatalf("the node has ranges %v, %v", node.Spec.PodCIDRs, err)
	}
	own, err := netip.MustParsePrefix(node.Spec.PodCIDRs[1]).Addr().Prefix(48)
	if err != nil {
		t.Fatal(err)
	}
	restart("--ipv6", "off")
	ranges(1)
	run("without", 1)
	ping("before", "without")
	kubectl(t, "create", "service", "clusterip", "early", "--namespace", ns, "--tcp", "80")
	restart()
	ranges(1) // the cell has no IPv6, and says so to a host that was told nothing
	restart("--ipv6", own.String())
	ranges(2)
	run("after", 2)
	ping("after", "before")
	ping("after", "without")
	kubectl(t, "patch", "service", "early", "--namespace", ns, "--patch", `{"spec": {"ipFamilyPolicy": "PreferDualStack"}}`)
	early, err := client.CoreV1().Services(ns).Get(t.Context(), "early", metav1.GetOptions{})
	if err != nil || len(early.Spec.ClusterIPs) != 2 {
		t.Errorf("a service of before has %v, %v", early.Spec.ClusterIPs, err)
	}
}
