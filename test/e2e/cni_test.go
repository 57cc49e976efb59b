package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/test/harness"
)

// cniPlugins is where Debian's containernetworking-plugins puts them.
const cniPlugins = "/usr/lib/cni"

// cniHost is the world's daemon with --network-driver cni, and its directories.
type cniHost struct {
	t                         *testing.T
	networks, plugins, leases string
}

// brokenPlugin answers as the specification has it.
const brokenPlugin = `#!/bin/sh
[ "$CNI_COMMAND" != ADD ] && exit 0
echo '{"cniVersion": "1.0.0", "code": 11, "msg": "the switch is on fire"}'
exit 1
`

func newCNIHost(t *testing.T) *cniHost {
	t.Helper()
	if _, err := os.Stat(filepath.Join(cniPlugins, "bridge")); err != nil {
		t.Skip("needs the reference plugins; install containernetworking-plugins")
	}
	dir := t.TempDir()
	h := &cniHost{t: t, networks: filepath.Join(dir, "net.d"), plugins: filepath.Join(dir, "bin"), leases: filepath.Join(dir, "leases")}
	h.must(os.MkdirAll(h.plugins, 0o755))
	h.must(os.WriteFile(filepath.Join(h.plugins, "broken"), []byte(brokenPlugin), 0o755))
	return h
}

func (h *cniHost) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *cniHost) flags() []string {
	return []string{"--network-driver", "cni", "--cni-conf-dir", h.networks, "--cni-bin-dir", cniPlugins + "," + h.plugins}
}

// configure has a bridge in the host's own range, and one plugin more behind it.
func (h *cniHost) configure(more string) {
	h.t.Helper()
	plugins := []map[string]any{{
		"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "capabilities": map[string]bool{"ipRanges": true},
		"ipam": map[string]any{"type": "host-local", "dataDir": h.leases, "routes": []map[string]string{{"dst": "0.0.0.0/0"}}},
	}}
	if more != "" {
		plugins = append(plugins, map[string]any{"type": more})
	}
	data, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "pods", "plugins": plugins})
	h.must(err)
	h.must(os.MkdirAll(h.networks, 0o755))
	h.must(os.WriteFile(filepath.Join(h.networks, "10-pods.conflist"), data, 0o600))
}

// ready waits for the node's condition with these words in it.
func (h *cniHost) ready(want corev1.ConditionStatus, words ...string) {
	h.t.Helper()
	eventually(h.t, "the node's readiness", func() error {
		node, err := client.CoreV1().Nodes().Get(h.t.Context(), daemon.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type != corev1.NodeReady {
				continue
			}
			for _, w := range words {
				if !strings.Contains(c.Message, w) {
					return fmt.Errorf("%q is not in: %s", w, c.Message)
				}
			}
			if c.Status == want {
				return nil
			}
		}
		return fmt.Errorf("conditions are %+v", node.Status.Conditions)
	})
}

// event waits for one of a pod with these words.
func (h *cniHost) event(ns, pod, reason, words string) {
	h.t.Helper()
	eventually(h.t, "event "+reason+" of "+pod, func() error {
		list, err := client.CoreV1().Events(ns).List(h.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod + ",reason=" + reason})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if strings.Contains(e.Message, words) {
				return nil
			}
		}
		return fmt.Errorf("%d of other words", len(list.Items))
	})
}

// nothingLeft waits until no pod has left anything.
func (h *cniHost) nothingLeft() {
	h.t.Helper()
	eventually(h.t, "all of pods' networks is gone", func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		var left []string
		for _, l := range links {
			if l.Attrs().MasterIndex > 0 {
				left = append(left, l.Attrs().Name)
			}
		}
		for _, pattern := range []string{h.leases + "/pods/[0-9]*", daemon.DataDir + "/cni/pods/*", daemon.DataDir + "/cni/results/*"} {
			files, _ := filepath.Glob(pattern)
			left = append(left, files...)
		}
		if len(left) > 0 {
			return fmt.Errorf("%q are left", left)
		}
		return nil
	})
}

// stopAll ends the daemon with all pods, whether it runs or not.
func stopAll(t *testing.T) {
	t.Helper()
	shoal(t, "stop", "--pods", "--data-dir", daemon.DataDir)
	<-daemon.Exited()
}

// backToShoal undoes what the plugins left for the host's next pods.
func (h *cniHost) backToShoal() {
	stopAll(h.t)
	daemon.Extra = nil
	if bridge, err := netlink.LinkByName("cni0"); err == nil {
		h.must(netlink.LinkDel(bridge))
	}
	h.must(daemon.Start(h.t.Context()))
	h.ready(corev1.ConditionTrue)
}

// TestCNI takes a host from shoal's own network to CNI plugins and back.
func TestCNI(t *testing.T) {
	ns := newNamespace(t)
	h := newCNIHost(t)
	kubectl(t, "run", "asker", "--namespace", ns, "--image", busyboxImage, "--command", "--", "sleep", "3600")
	running := func(pod *corev1.Pod) bool {
		return pod.Status.Phase == corev1.PodRunning && len(pod.Status.ContainerStatuses) == 1 && pod.Status.ContainerStatuses[0].State.Running != nil
	}
	podWhen(t, ns, "asker", "runs", running)

	daemon.Terminate()
	<-daemon.Exited()
	daemon.Extra = h.flags()
	defer h.backToShoal()
	if err := daemon.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "run with a network of driver shoal") {
		t.Fatalf("started beside pods of another driver: %v", err)
	}
	stopAll(t)

	h.must(daemon.Start(t.Context()))
	h.ready(corev1.ConditionFalse, "NetworkPluginNotReady", h.networks, "--network-driver shoal")
	mentions(t, shoal(t, "status", "--kubeconfig", daemon.Kubeconfig()), "network-plugins", h.networks)
	h.event(ns, "asker", "FailedCreatePodSandBox", "no CNI network is configured")
	h.configure("broken")
	h.ready(corev1.ConditionTrue)
	h.event(ns, "asker", "FailedCreatePodSandBox", "the switch is on fire")
	h.configure("")
	asker := podWhen(t, ns, "asker", "runs", running)
	node, err := client.CoreV1().Nodes().Get(t.Context(), daemon.Name, metav1.GetOptions{})
	h.must(err)
	if got := node.Labels["shoal.dev/network-driver"]; got != "cni" {
		t.Errorf("the node's label says %q", got)
	}
	for i, cidr := range node.Spec.PodCIDRs {
		if r := netip.MustParsePrefix(cidr); len(asker.Status.PodIPs) <= i || !r.Contains(netip.MustParseAddr(asker.Status.PodIPs[i].IP)) {
			t.Errorf("the pod's addresses %v are not of the node's ranges %v", asker.Status.PodIPs, node.Spec.PodCIDRs)
		}
	}

	service := startEcho(t, ns, 2)
	h.paths(ns, service)
	pods := podsReady(t, ns, "app=echo", 2)
	before := containerIDs(pods)
	restartDaemon(t, daemon.Kill)
	for _, network := range []string{"tcp", "udp"} {
		allAnswer(t, network, clusterAddr(service), pods)
	}
	h.paths(ns, service)
	if after := podsReady(t, ns, "app=echo", 2); !maps.Equal(before, containerIDs(after)) {
		t.Errorf("containers %v became %v", before, containerIDs(after))
	}

	h.policies(ns)
	h.hostPort(ns)

	kubectl(t, "delete", "--namespace", ns, "deployment/echo", "pod/asker", "pod/door", "--now", "--wait")
	h.nothingLeft()
}

// policies are not enforced, and that is said.
func (h *cniHost) policies(ns string) {
	t := h.t
	t.Helper()
	apply(t, ns, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody}
spec: {podSelector: {matchLabels: {app: echo}}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: of-none}
spec: {podSelector: {matchLabels: {app: other}}, policyTypes: [Ingress]}
`)
	h.event(ns, "nobody", "NetworkPolicyNotEnforced", daemon.Name)
	pods := podsReady(t, ns, "app=echo", 2)
	result := daemon.Command("policy", "test", "--kubeconfig", daemon.Kubeconfig(), ns+"/asker", ns+"/"+pods[0].Name, "9000").Run(t.Context())
	mentions(t, result.Stdout, "denied: ", "does not enforce policies at pod "+ns+"/"+pods[0].Name)
	if _, err := ask(t.Context(), "tcp", net.JoinHostPort(pods[0].Status.PodIP, "9000")); err != nil {
		t.Errorf("shoal enforces a policy after all: %v", err)
	}
	events, err := client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=of-none"})
	if err != nil || len(events.Items) > 0 {
		t.Errorf("a policy that selects nobody has %d events, %v", len(events.Items), err)
	}
}

// hostPort needs no plugin of its own.
func (h *cniHost) hostPort(ns string) {
	h.t.Helper()
	apply(h.t, ns, pod("door", `
  containers:
  - {name: main, image: `+echoImage+`, ports: [{containerPort: 9000, hostPort: 9099}]}
`))
	for name, prefix := range map[string][]string{"other machine": world.Outside(), "host": nil} {
		eventually(h.t, name+" to host port", func() error {
			got, err := askFrom(h.t.Context(), prefix, harness.NodeAddr, "9099")
			if err == nil && got != "door" {
				err = fmt.Errorf("%s answers", got)
			}
			return err
		})
	}
}

// paths are those by which pods are called, and call.
func (h *cniHost) paths(ns string, service *corev1.Service) {
	t := h.t
	t.Helper()
	pods := podsReady(t, ns, "app=echo", 2)
	kubectlPath, err := harness.Binary(".cache/bin/kubectl")
	h.must(err)
	fromPod := []string{kubectlPath, "--kubeconfig", daemon.Kubeconfig(), "exec", "--namespace", ns, "asker", "--"}
	for name, path := range map[string]struct {
		prefix     []string
		host, port string
	}{
		"pod to pod":                 {fromPod, pods[0].Status.PodIP, "9000"},
		"pod to cluster address":     {fromPod, service.Spec.ClusterIP, "80"},
		"pod to name":                {fromPod, "echo", "80"},
		"pod to node port":           {fromPod, harness.NodeAddr, nodePort(service, "tcp")},
		"other machine to node port": {world.Outside(), harness.NodeAddr, nodePort(service, "tcp")},
	} {
		eventually(t, name, func() error {
			_, err := askFrom(t.Context(), path.prefix, path.host, path.port)
			return err
		})
	}
	eventually(t, "other machine to UDP node port", func() error {
		argv := world.Outside(echoBinary, "-ask", net.JoinHostPort(harness.NodeAddr, nodePort(service, "udp")))
		result := harness.Command{Argv: argv}.Run(t.Context())
		if result.Err != nil {
			return result.Err
		}
		name, err := podOf(result.Stdout, "hello")
		if err == nil && !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Name == name }) {
			err = errors.New(name + " is no pod of the service")
		}
		return err
	})
	for _, network := range []string{"tcp", "udp"} {
		allAnswer(t, network, net.JoinHostPort(harness.NodeAddr, nodePort(service, network)), pods)
	}
}
